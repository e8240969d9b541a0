"""Artifacts for tests: one call each, all through the product's pipeline."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions, KernelsFrom
from resnext.precision import Precision
from resnext.weights.spec import Weights, load_weights
from resnext_export.pipeline import run
from resnext_export.request import ExportRequest


def relabeled(artifact: Artifact, folder: Path, **changes: Any) -> Artifact:
    """A copy of an artifact in ``folder`` whose manifest says something else."""
    shutil.copytree(artifact.directory, folder)
    manifest = artifact.manifest.model_copy(update=changes)
    (folder / "manifest.json").write_text(manifest.to_json())
    return read_artifact(folder)


@functools.cache
def seeded_resnext50() -> Weights:
    """ResNeXt-50 32x4d, seeded; generated once in a process, which takes two seconds."""
    return load_weights("seeded", "resnext50_32x4d")


def batch_text(batch: BatchRange) -> str:
    """A range as a request spells it."""
    if batch.static:
        return str(batch.min)
    return f"{batch.min}:{batch.opt}" + ("" if batch.max is None else f":{batch.max}")


def export_onnx(
    weights: Weights,
    directory: Path,
    *,
    batch: BatchRange | None = None,
    bake_preprocessing: bool = False,
    precision: Precision = "fp32",
    check: bool = True,
    force: bool = False,
) -> Artifact:
    """An ONNX artifact."""
    request = ExportRequest(
        batch=batch and batch_text(batch),
        bake_preprocessing=bake_preprocessing,
        precision=None if precision == "fp32" else precision,
    )
    return run(request, directory, weights=weights, check=check, force=force)


def derive_onnx(
    parent: Artifact,
    weights: Weights,
    directory: Path,
    request: ExportRequest,
    *,
    check: bool = True,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """An ONNX artifact of another precision, or with merged groups."""
    fields = {**request.record(), "onnx": parent.directory}
    return run(
        ExportRequest(**fields), directory, weights=weights, check=check, force=force, say=say
    )


def export_openvino(
    parent: Artifact, weights: Weights, directory: Path, *, check: bool = True, force: bool = False
) -> Artifact:
    """OpenVINO's IR of an ONNX artifact."""
    request = ExportRequest(format="openvino", onnx=parent.directory)
    return run(request, directory, weights=weights, check=check, force=force)


def export_engine(
    parent: Artifact,
    weights: Weights,
    directory: Path,
    *,
    kind: Literal["trt", "trt-rtx"],
    options: EngineOptions,
    timing_cache: Path | None = None,
    check: bool = True,
    force: bool = False,
) -> Artifact:
    """An engine of an ONNX artifact."""
    choices: dict[str, Any] = dict(options)
    profiles = choices.pop("profiles")
    request = ExportRequest(
        format=kind,
        onnx=parent.directory,
        batch=",".join(map(batch_text, profiles)),
        timing_cache=timing_cache,
        **{**choices, "fallbacks": choices["fallbacks"] or "fail"},
    )
    return run(request, directory, weights=weights, check=check, force=force)


def export_pt2(
    weights: Weights,
    directory: Path,
    *,
    batch: BatchRange | None = None,
    precision: Precision = "fp32",
    bake_preprocessing: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    kernels: KernelsFrom = "inductor",
    check: bool = True,
    force: bool = False,
) -> Artifact:
    """A compiled package."""
    request = ExportRequest(
        format="pt2",
        batch=batch and batch_text(batch),
        precision=precision,
        bake_preprocessing=bake_preprocessing,
        device=device,
        kernels=kernels,
    )
    return run(request, directory, weights=weights, check=check, force=force)
