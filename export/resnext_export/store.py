"""Build an artifact once, reuse it ever after: the functions through which benchmarks reach
exporting.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import FORMAT_VERSION, BatchRange, Manifest
from resnext.artifact.records import EngineOptions
from resnext.errors import BadArtifact
from resnext.machine.cuda_driver import probe_driver
from resnext.precision import Precision
from resnext.runtimes.compatibility import obstacles, this_machine
from resnext.runtimes.pt2.record import cpu_flags, this_host
from resnext.runtimes.pt2.record import obstacles as package_obstacles
from resnext.runtimes.trt.library import EngineKind, Flavour, flavour_for
from resnext.storage import cache_folder, locked
from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.weights.spec import Weights

    from .recipe import Recipe, Runtime


@dataclass(frozen=True)
class Built:
    """An artifact from the cache.

    Attributes:
        artifact: the artifact.
        reused: True where it was already there.
    """

    artifact: Artifact
    reused: bool


def build_or_reuse(
    weights: Weights, folder: Path | None = None, recipe: Recipe | None = None
) -> Built:
    """The checked ONNX artifact of ``weights``, exported now if no earlier run left it.

    Safe for several processes: the first builds, the others wait and reuse. A damaged entry is
        built again.

    Args:
        weights: the network.
        folder: of the cache; None means `cache_folder`.
        recipe: what to make of the float32 artifact, as `derived_or_reuse` does; None leaves it.

    Raises:
        MissingRequirement: the cache folder cannot be written to.
        GateFailed: the export does not agree with PyTorch.
        ResnextError: whatever `derived_or_reuse` raises.
    """
    from resnext_export.formats.onnx import export_onnx

    def good(manifest: Manifest) -> bool:
        return manifest.check is not None and manifest.weights.sha256 == weights.sha256

    def build(entry: Path) -> Artifact:
        return export_onnx(weights, entry, force=entry.exists())

    plain = _once((folder or cache_folder()) / "onnx" / _key(weights), good, build)
    return plain if recipe is None else derived_or_reuse(plain.artifact, weights, recipe, folder)


def onnx_or_reuse(
    weights: Weights,
    precision: Precision,
    form: str = "ort",
    calibration: tuple[str | None, int | None] = (None, None),
    *,
    merge: int | Literal["auto"] | None = None,
    batch: int = 8,
) -> Built:
    """The checked ONNX artifact of ``weights`` at ``precision``; as `build_or_reuse`.

    Args:
        weights: the network.
        precision: of weights and activations.
        form: the runtime that a quantized graph is for, and that ``auto`` times on.
        calibration: its images, as `Calibration` has them, and how many; None for either means the
            default.
        merge: input channels that each group has at least; ``auto`` is the fastest by a trial, None
            keeps the groups.
        batch: that ``auto`` times at.

    Raises:
        ResnextError: whatever `build_or_reuse` raises.
    """
    from resnext.precision import QUANTIZED

    from .recipe import IMAGES, Calibration, Recipe

    if precision == "fp32" and merge is None:
        return build_or_reuse(weights)
    recipe = Recipe(
        None if precision == "fp32" else precision,
        merge=merge,
        batch=batch if merge == "auto" else 8,
    )
    if precision in QUANTIZED or merge == "auto":
        recipe = replace(recipe, runtime=cast("Runtime", "trt" if precision == "fp8" else form))
    if precision in QUANTIZED:
        recipe = replace(recipe, calibration=Calibration(calibration[0], calibration[1] or IMAGES))
    return build_or_reuse(weights, recipe=recipe)


def derived_or_reuse(
    parent: Artifact,
    weights: Weights,
    recipe: Recipe,
    folder: Path | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """What ``recipe`` makes of ``parent``, made now if no earlier run left it; as `build_or_reuse`.

    Raises:
        MissingRequirement: the cache folder cannot be written to, or a data set is not installed.
        ResnextError: whatever `derive_onnx` raises.
    """
    from resnext.precision import QUANTIZED
    from resnext_export.formats.derived import derive_onnx

    from .publish import library_versions

    images = None
    if recipe.precision in QUANTIZED:
        asked = recipe.calibration
        images = [asked.source(weights).digest, asked.images, asked.method]
    facts = {
        "onnx": parent.manifest.file_sha256,
        "recipe": {**asdict(recipe), "calibration": images},
        "versions": library_versions(),
        "machine": [sorted(cpu_flags()), os.cpu_count()] if recipe.merge == "auto" else None,
    }

    def good(manifest: Manifest) -> bool:
        return manifest.check is not None and manifest.parent_sha256 == parent.manifest.file_sha256

    def build(entry: Path) -> Artifact:
        return derive_onnx(parent, weights, entry, recipe, force=entry.exists(), say=say)

    return _once((folder or cache_folder()) / "onnx" / _digest(facts), good, build)


def engine_or_reuse(
    parent: Artifact,
    weights: Weights,
    kind: EngineKind,
    options: EngineOptions,
    folder: Path | None = None,
) -> Built:
    """The engine of ``parent`` for this machine, built now if no earlier run left it.

    As `build_or_reuse`; what TensorRT times while it builds is kept as well, and reused by the next
    build.

    Raises:
        MissingRequirement: the cache folder cannot be written to, or the library or its GPU is
            missing.
        EngineRefused: the library does not build it.
        GateFailed: the engine does not agree with PyTorch.
    """
    from resnext_export.formats.tensorrt import export_engine

    flavour = flavour_for(kind)
    folder = folder or cache_folder()
    machine = _machine_facts(flavour)
    times = (
        None if flavour.kind == "trt-rtx" else folder / "trt-timing" / f"{_digest(machine)}.cache"
    )

    def good(manifest: Manifest) -> bool:
        # Without a check where it could have been checked: somebody built it on a machine that had
        # no GPU then.
        return manifest.parent_sha256 == parent.manifest.file_sha256 and (
            manifest.check is not None or bool(obstacles(manifest, this_machine(flavour)))
        )

    def build(entry: Path) -> Artifact:
        return export_engine(
            parent,
            weights,
            entry,
            kind=kind,
            options=options,
            timing_cache=times,
            force=entry.exists(),
        )

    facts = {
        "onnx": parent.manifest.file_sha256,
        **machine,
        "options": options.model_dump(mode="json"),
    }
    return _once(folder / flavour.kind / _digest(facts), good, build)


def pt2_or_reuse(
    weights: Weights,
    batch: int,
    folder: Path | None = None,
    *,
    precision: Precision = "fp32",
    device: Literal["cpu", "cuda"] = "cpu",
) -> Built:
    """The checked .pt2 package of ``weights`` for this machine at one batch size, compiled now if
    none was left.

    As `build_or_reuse`. The size is fixed: the compiler then knows every shape, and a package of a
    range is slower.

    Raises:
        UsageError: a package is not made in that precision.
        MissingRequirement: the cache folder cannot be written to, or there is no C++ compiler or
            CUDA device.
        SessionFailed: the compiler failed.
        GateFailed: the package does not agree with PyTorch.
    """
    host = this_host()

    def good(manifest: Manifest) -> bool:
        package = manifest.package
        ours = manifest.weights.sha256 == weights.sha256 and manifest.check is not None
        return ours and package is not None and not package_obstacles(package, host)

    def build(entry: Path) -> Artifact:
        from resnext_export.formats.pt2 import export_pt2

        sizes = BatchRange(min=batch, opt=batch, max=batch)
        return export_pt2(
            weights, entry, batch=sizes, precision=precision, device=device, force=entry.exists()
        )

    # A package hangs on PyTorch and the processor or GPU, not on the ONNX libraries or an operator
    # set.
    machine = asdict(host) | {
        "cpu_flags": sorted(host.cpu_flags),
        "gpu": _gpu_name() if device == "cuda" else None,
    }
    facts = {
        "format": FORMAT_VERSION,
        "toolkit": __version__,
        "precision": precision,
        "device": device,
        "batch": batch,
        "config": asdict(weights.config),
        "weights": weights.sha256,
        "classes": weights.class_names,
        "preprocessing": weights.preprocessing.model_dump(mode="json"),
        "machine": machine,
    }
    return _once((folder or cache_folder()) / "pt2" / _digest(facts), good, build)


def _gpu_name() -> str | None:
    gpus = probe_driver().gpus
    return gpus[0].name if gpus else None


def _machine_facts(flavour: Flavour) -> dict[str, Any]:
    """What an engine or a kernel's time hangs on beside the graph."""
    driver = probe_driver()
    return {
        "format": FORMAT_VERSION,
        "library": flavour.package,
        "version": flavour.version,
        "cuda": flavour.cuda,
        "gpu": [asdict(gpu) for gpu in driver.gpus[:1]],
        "driver": driver.cuda_version,
    }


def _once(
    entry: Path, good: Callable[[Manifest], bool], build: Callable[[Path], Artifact]
) -> Built:
    """The artifact at ``entry`` if it is whole and ``good``, else what ``build`` makes there, under
    a lock.
    """
    with locked(entry.with_suffix(".lock")):
        try:
            artifact = read_artifact(entry)
            if good(artifact.manifest):
                return Built(artifact, reused=True)
        except BadArtifact:
            shutil.rmtree(
                entry, ignore_errors=True
            )  # absent, or damaged since; the cache owns its entries
        return Built(build(entry), reused=False)


def _key(weights: Weights) -> str:
    """A name that changes with everything that changes the bytes, versions of the exporting
    libraries included.
    """
    from resnext_export.convert.onnx_from_torch import OPSET

    from .publish import library_versions

    batch = BatchRange(min=1, opt=8, max=None)
    return _digest(
        {
            "format": FORMAT_VERSION,
            "precision": "fp32",
            "config": asdict(weights.config),
            "weights": weights.sha256,
            "batch": str(batch),
            "preprocessing": weights.preprocessing.model_dump(mode="json"),
            "classes": weights.class_names,
            "opset": OPSET,
            "versions": library_versions(),
        }
    )


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
