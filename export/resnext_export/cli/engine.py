"""What ``resnext-export`` does for formats that are made from an ONNX artifact, and what it says of
an engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from resnext.precision import QUANTIZED

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest
    from resnext.runtimes.trt.library import EngineKind
    from resnext.weights.spec import Weights
    from resnext_export.request import Asked

    from .engine_options import EngineRequest


def export_from_onnx_as_asked(asked: Asked, request: EngineRequest) -> Artifact:
    """Find or export the ONNX artifact, then make an engine or OpenVINO's IR of it.

    Raises:
        UsageError: options that do not go together.
        ResnextError: whatever `export_engine` or `export_openvino` raises.
    """
    if asked.target == "openvino":
        from resnext_export.formats.openvino import export_openvino

        parent, weights = _derived_source(asked, request, asked.batch)
        directory = asked.directory(weights, parent.manifest.precision, asked.target)
        return export_openvino(parent, weights, directory, check=asked.check, force=asked.force)
    from resnext.runtimes.trt.library import flavour_for
    from resnext_export.formats.tensorrt import check_request, export_engine

    kind = cast("EngineKind", asked.target)
    options = request.options(asked.batch)
    flavour = flavour_for(kind)
    check_request(
        flavour, options, request.timing_cache
    )  # before any weights are loaded or exported
    # Batch sizes are the engine's own; groups are timed at the size that it is tuned for.
    parent, weights = _derived_source(asked, request, None, options.batch.opt)
    return export_engine(
        parent,
        weights,
        asked.directory(weights, parent.manifest.precision, flavour.kind),
        kind=kind,
        options=options,
        timing_cache=request.timing_cache,
        check=asked.check,
        force=asked.force,
    )


def export_derived_as_asked(asked: Asked, request: EngineRequest) -> Artifact:
    """Find or export the ONNX artifact, then make another one of it.

    Raises:
        UsageError: options that do not go together.
        ResnextError: whatever `derive_onnx` raises.
    """
    from resnext_export.formats.derived import derive_onnx

    parent, weights = _source(asked, request, asked.batch, _check_images(asked, request))
    recipe = asked.wanted_recipe(parent.manifest.batch.opt)
    assert recipe is not None  # or this would not have been called
    directory = asked.directory(
        weights, recipe.precision or parent.manifest.precision, asked.target
    )
    return derive_onnx(
        parent, weights, directory, recipe, check=asked.check, force=asked.force, say=_note
    )


def _derived_source(
    asked: Asked, request: EngineRequest, batch: str | None, tuned: int = 8
) -> tuple[Artifact, Weights]:
    """The ONNX artifact to build from, of the precision that was asked for, and its weights.

    Args:
        asked: what was asked for.
        request: which names the artifact to start from, or does not.
        batch: as `_source`.
        tuned: batch size at which merged groups are timed.
    """
    loaded = _check_images(asked, request)
    recipe = asked.wanted_recipe(tuned)
    parent, weights = _source(asked, request, batch, loaded)
    if recipe is None or (recipe.merge is None and recipe.precision == parent.manifest.precision):
        _check_same(asked, parent)
        return parent, weights
    if asked.check:
        from resnext_export.store import derived_or_reuse

        return derived_or_reuse(parent, weights, recipe, say=_note).artifact, weights
    from resnext_export.formats.derived import derive_onnx

    return (
        derive_onnx(parent, weights, _scratch() / "derived", recipe, check=False, say=_note),
        weights,
    )


def _check_images(asked: Asked, request: EngineRequest) -> Weights | None:
    """What can be known to be missing is said before anything is exported; the weights, if they had
    to be loaded for it.
    """
    recipe = asked.wanted_recipe()
    if recipe is None or recipe.precision not in QUANTIZED or request.onnx is not None:
        return None
    weights = asked.weights()
    recipe.calibration.check(weights)
    return weights


def _check_same(asked: Asked, parent: Artifact) -> None:
    from resnext.errors import UsageError

    if asked.precision not in (None, parent.manifest.precision):
        raise UsageError(
            f"{parent.directory} is {parent.manifest.precision}, not {asked.precision}; drop"
            " --precision, or start from the float32 export"
        )


def _note(line: str) -> None:
    click.echo(f"note: {line}", err=True)


def _scratch() -> Path:
    """A folder that goes when the process does."""
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="resnext-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _source(
    asked: Asked, request: EngineRequest, batch: str | None, loaded: Weights | None = None
) -> tuple[Artifact, Weights]:
    """The ONNX artifact that was named, or the one of the weights that were, and these weights.

    Args:
        asked: what was asked for.
        request: which names the artifact, or does not.
        batch: batch sizes that the ONNX artifact is to take, where not any.
        loaded: the named weights, if they are loaded already.
    """
    if request.onnx is None:
        weights = loaded or asked.weights()
        return _parent(asked, weights, batch), weights
    from resnext.artifact.files import read_artifact
    from resnext.errors import UsageError
    from resnext.verify.check import artifact_weights

    own = {
        "--model": asked.model,
        "--num-classes": asked.num_classes,
        "--input-size": asked.input_size,
        "--batch": batch,
        "--bake-preprocessing": asked.bake_preprocessing or None,
    }
    if given := [name for name, value in own.items() if value is not None]:
        raise UsageError(f"the ONNX artifact has its own {given[0][2:]}; drop it")
    parent = read_artifact(request.onnx)
    return parent, artifact_weights(parent, asked.spec)


def _parent(asked: Asked, weights: Weights, batch: str | None) -> Artifact:
    """The cache's ONNX artifact; one with baked preprocessing, own batch sizes, or unchecked, is
    made anew.
    """
    if not asked.bake_preprocessing and asked.check and batch is None:
        from resnext_export.store import build_or_reuse

        return build_or_reuse(weights).artifact
    from resnext.artifact.manifest import BatchRange
    from resnext_export.formats.onnx import export_onnx

    return export_onnx(
        weights,
        _scratch() / "onnx",
        batch=None if batch is None else BatchRange.parse(batch),
        bake_preprocessing=asked.bake_preprocessing,
        check=asked.check,
    )


def say_engine(manifest: Manifest) -> None:
    """Print what is particular to an engine: what it was built for, fallbacks, delivered
    precision.
    """
    from resnext.runtimes.trt.library import RTX_DEFAULT_TARGETS

    from .inspect import delivered_line

    record = manifest.engine
    assert record is not None
    ahead = record.library == "tensorrt_rtx"
    where = (", ".join(record.options.targets) or RTX_DEFAULT_TARGETS) if ahead else record.gpu
    click.echo(f"built for {where}")
    for done in record.done:
        click.echo(f"fallback  {done}")
    click.echo(f"delivered {delivered_line(manifest)}")
