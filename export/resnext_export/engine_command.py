"""What ``resnext-export`` does for formats that are made from an ONNX artifact, and what it says of an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from resnext.command import chosen_weights
from resnext.config import Precision

if TYPE_CHECKING:
    from resnext.artifact import Artifact
    from resnext.manifest import BatchRange, Manifest
    from resnext.trt_flavour import EngineKind
    from resnext.weights import Weights

    from .engine_options import EngineRequest


def export_engine_as_asked(
    target: str,
    request: EngineRequest,
    *,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    precision: Precision | None,
    batch: str | None,
    bake_preprocessing: bool,
    output: Path | None,
    default_name: Callable[[Weights, str, str], str],
    check: bool,
    force: bool,
) -> Artifact:
    """Find or export the ONNX artifact, then build the engine from it.

    Raises:
        UsageError: options that do not go together.
        ResnextError: whatever `export_engine` raises.
    """
    from resnext.trt_flavour import flavour_for

    from .engine_artifact import check_request, export_engine

    kind = cast("EngineKind", target)
    options = request.options(batch)
    flavour = flavour_for(kind)
    check_request(flavour, options, request.timing_cache)  # before any weights are loaded or exported
    parent, weights = _source(
        request,
        model,
        spec,
        num_classes,
        input_size,
        precision,
        None,
        bake_preprocessing=bake_preprocessing,
        check=check,
    )
    return export_engine(
        parent, weights, output or Path(default_name(weights, parent.manifest.precision, flavour.kind)), kind=kind,
        options=options, timing_cache=request.timing_cache, check=check, force=force,
    )  # fmt: skip


def export_openvino_as_asked(
    request: EngineRequest,
    *,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    precision: Precision | None,
    batch: str | None,
    bake_preprocessing: bool,
    output: Path | None,
    default_name: Callable[[Weights, str, str], str],
    check: bool,
    force: bool,
) -> Artifact:
    """Find or export the ONNX artifact, then convert it to OpenVINO's IR.

    Raises:
        UsageError: options that do not go together.
        ResnextError: whatever `export_openvino` raises.
    """
    from resnext.manifest import BatchRange

    from .openvino_artifact import export_openvino

    parent, weights = _source(
        request, model, spec, num_classes, input_size, precision, None if batch is None else BatchRange.parse(batch),
        bake_preprocessing=bake_preprocessing, check=check,
    )  # fmt: skip
    directory = output or Path(default_name(weights, parent.manifest.precision, "openvino"))
    return export_openvino(parent, weights, directory, check=check, force=force)


def _source(
    request: EngineRequest, model: str | None, spec: str | None, num_classes: int | None, input_size: str | None,
    precision: Precision | None, batch: BatchRange | None, *, bake_preprocessing: bool, check: bool,
) -> tuple[Artifact, Weights]:  # fmt: skip
    """The ONNX artifact that was named, or the one of the weights that were, and these weights."""
    if request.onnx is None:
        weights = chosen_weights(model, spec, num_classes, input_size)
        return _parent(weights, precision or "fp32", batch, bake_preprocessing=bake_preprocessing, check=check), weights
    from resnext.artifact import read_artifact
    from resnext.errors import UsageError
    from resnext.parity_command import artifact_weights

    asked = {
        "--model": model, "--num-classes": num_classes, "--input-size": input_size, "--precision": precision,
        "--batch": batch, "--bake-preprocessing": bake_preprocessing or None,
    }  # fmt: skip
    if given := [name for name, value in asked.items() if value is not None]:
        raise UsageError(f"the ONNX artifact has its own {given[0][2:]}; drop it")
    parent = read_artifact(request.onnx)
    return parent, artifact_weights(parent, spec)


def _parent(
    weights: Weights, precision: Precision, batch: BatchRange | None, *, bake_preprocessing: bool, check: bool
) -> Artifact:
    """The cache's ONNX artifact; one with baked preprocessing, own batch sizes, or unchecked, is made anew."""
    if not bake_preprocessing and check and batch is None:
        from .cache import build_or_reuse

        return build_or_reuse(weights, precision=precision).artifact
    import atexit
    import shutil
    import tempfile

    from .onnx_artifact import export_onnx

    folder = tempfile.mkdtemp(prefix="resnext-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return export_onnx(
        weights, Path(folder) / "onnx", batch=batch, bake_preprocessing=bake_preprocessing, precision=precision,
        check=check,
    )  # fmt: skip


def say_engine(manifest: Manifest) -> None:
    """Print what is particular to an engine: what it was built for, fallbacks, delivered precision."""
    from resnext.trt_flavour import RTX_DEFAULT_TARGETS

    from .inspect_command import delivered_line

    record = manifest.engine
    assert record is not None
    ahead = record.library == "tensorrt_rtx"
    where = (", ".join(record.options.targets) or RTX_DEFAULT_TARGETS) if ahead else record.gpu
    click.echo(f"built for {where}")
    for done in record.done:
        click.echo(f"fallback  {done}")
    click.echo(f"delivered {delivered_line(manifest)}")
