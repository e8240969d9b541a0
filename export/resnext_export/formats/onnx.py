"""From weights to a checked ONNX artifact: convert, write, validate, compare, seal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from resnext.artifact.files import Artifact, check_destination
from resnext.artifact.identity import file_facts
from resnext.artifact.manifest import BatchRange, CheckRecord
from resnext.artifact.specs import TensorSpec
from resnext.network.config import variant_name
from resnext.precision import QUANTIZED, Precision
from resnext.progress import working
from resnext.runtimes.pt2.record import cpu_flags
from resnext.runtimes.pytorch.release import refuse_older_torch
from resnext.weights.spec import Weights
from resnext_export import proof
from resnext_export.calibration_images import calibration_images
from resnext_export.convert.onnx_from_torch import OPSET, onnx_from_torch
from resnext_export.publish import Built, library_versions, publish
from resnext_export.request import ExportRequest

from .base import Builder
from .derived import build_derived, derive_onnx
from .onnx_file import FILE_NAME, write_onnx


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
    """Export ``weights`` to ``directory``, whole or not at all.

    Another precision than float32 is made of the float32 export, as `derive_onnx` does, and its
    manifest names that.

    Args:
        weights: what to export.
        directory: folder to make; ``model.onnx`` and ``manifest.json`` appear in it together.
        batch: batch sizes to take; None means any.
        bake_preprocessing: take uint8 N x H x W x C pixels and normalise inside the graph.
        precision: of weights and activations; input and output stay float32 (or uint8). int8 and
            fp8 are for weights that come with images; `derive_onnx` takes others.
        check: compare the written bytes with eager PyTorch; off, the manifest says that nothing was
            compared.
        force: replace an artifact that is already there.

    Raises:
        GateFailed: the graph is not as asked, or the written bytes do not agree with PyTorch.
            Nothing is written.
        UsageError: ``directory`` is taken.
        MissingRequirement: PyTorch is too old, or the disk is full or not writable.
    """
    refuse_older_torch()
    batch = batch or BatchRange(min=1, opt=8, max=None)
    check_destination(directory, force=force)
    if precision != "fp32":
        with TemporaryDirectory(prefix="resnext-") as scratch:
            parent = export_onnx(
                weights,
                Path(scratch) / "fp32",
                batch=batch,
                bake_preprocessing=bake_preprocessing,
                check=False,
            )
            request = ExportRequest(precision=precision)
            return derive_onnx(parent, weights, directory, request, check=check, force=force)
    build = partial(_build, weights, batch, baked=bake_preprocessing, check=check)
    return publish(weights, directory, build, check=check, force=force)


class OnnxBuilder(Builder):
    """The plain export of weights, or an ONNX artifact with a changed graph."""

    def prepare(self, request: ExportRequest) -> str:
        """Accept: nothing can be refused before the weights are known."""
        return request.format

    def key(self, request: ExportRequest, weights: Weights) -> Mapping[str, Any]:
        """Versions, calibration images, and the processor that merged groups are timed on."""
        images = None
        if request.precision in QUANTIZED:
            images = calibration_images(request, weights).digest
        timed = request.merge_groups == "auto"
        return {
            "opset": OPSET,
            "versions": library_versions(),
            "images": images,
            "machine": [sorted(cpu_flags()), os.cpu_count()] if timed else None,
        }

    def build(
        self,
        source: Weights | Artifact,
        weights: Weights,
        request: ExportRequest,
        folder: Path,
        *,
        check: bool,
        say: Callable[[str], None],
        cache: Path | None,  # noqa: ARG002  # nothing to keep
    ) -> Built:
        """Export the weights, or change the graph of an ONNX artifact."""
        if isinstance(source, Artifact):
            return build_derived(source, weights, request, folder, check=check, say=say)
        (batch,) = request.profiles()
        return _build(weights, batch, folder, baked=request.bake_preprocessing, check=check)


def _build(
    weights: Weights,
    batch: BatchRange,
    folder: Path,
    *,
    baked: bool,
    check: bool,
) -> Built:
    with working("exporting to ONNX"):
        proto = onnx_from_torch(weights, batch, bake_preprocessing=baked)
    # PyTorch computes the reference on another thread while the file is written, validated and
    # hashed.
    pool = ThreadPoolExecutor(max_workers=1)
    expected = pool.submit(proof.expect, weights, batch, "fp32") if check else None
    pool.shutdown(wait=False)
    config = weights.config
    shape: tuple[int, ...] = (config.in_channels, *config.input_size)
    if baked:
        shape = (*config.input_size, config.in_channels)
    size = batch.min if batch.static else None
    _describe(proto, weights, baked=baked)
    write_onnx(proto, folder)

    def proven(artifact: Artifact) -> CheckRecord:
        assert expected is not None  # only called if there is a check
        return proof.prove(artifact, expected.result())

    facts = {
        "kind": "onnx",
        "precision": "fp32",
        "inputs": (
            TensorSpec(name="input", dtype="uint8" if baked else "float32", shape=(size, *shape)),
        ),
        "outputs": (TensorSpec(name="logits", dtype="float32", shape=(size, config.num_classes)),),
        "batch": batch,
        "preprocessing_baked": baked,
        "opset": proto.opset_import[0].version,
    }
    return Built(FILE_NAME, facts, library_versions(), proven)


def _describe(proto: onnx.ModelProto, weights: Weights, *, baked: bool) -> None:
    """Add the metadata that a consumer of the bare file needs."""
    facts = {
        "resnext.model": variant_name(weights.config) or "custom",
        "resnext.weights": Path(weights.source).name,
        **file_facts(
            weights_sha256=weights.sha256,
            preprocessing=weights.preprocessing,
            preprocessing_baked=baked,
            class_names=weights.class_names,
        ),
    }
    onnx.helper.set_model_props(proto, facts)
