"""From weights to a checked ONNX artifact: convert, write, validate, compare, seal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_bytes
from resnext.artifact.identity import file_facts
from resnext.artifact.manifest import CheckRecord
from resnext.artifact.specs import TensorSpec
from resnext.images.preprocessing import PIXELS_VERSION
from resnext.network.config import variant_name
from resnext.precision import DEFAULT
from resnext.progress import working
from resnext.runtimes.pt2.record import cpu_flags
from resnext.verify.subject import Network, weights_of
from resnext.weights.spec import Weights
from resnext_export import proof
from resnext_export.calibration_images import calibration_images
from resnext_export.convert.onnx_from_torch import onnx_from_torch
from resnext_export.publish import Built, library_versions
from resnext_export.request import ExportRequest

from .base import Builder
from .derived import build_derived
from .onnx_file import FILE_NAME, write_onnx


class OnnxBuilder(Builder):
    """The plain export of weights, or an ONNX artifact with a changed graph."""

    def key(self, request: ExportRequest, weights: Network) -> Mapping[str, Any]:
        """Versions, calibration images, and the processor that merged groups are timed on."""
        images = None
        if request.numerics.calibrated:
            digest = calibration_images(request, weights_of(weights)).digest
            images = f"{digest} {PIXELS_VERSION}"
        timed = request.merge_groups == "auto"
        return {
            "opset": request.graph_opset,
            "ir_version": "least",
            "versions": library_versions(),
            "images": images,
            "machine": [sorted(cpu_flags()), os.cpu_count()] if timed else None,
        }

    def build(
        self,
        source: Weights | Artifact,
        weights: Network,
        request: ExportRequest,
        folder: Path,
        *,
        check: bool,
        say: Callable[[str], None],
        cache: Path | None,  # noqa: ARG002  # nothing to keep
    ) -> Built:
        """Export the weights, or change the graph of an ONNX artifact."""
        if isinstance(source, Artifact) and not request.derives:
            return _adopted(source, folder)
        known = weights_of(weights)
        if isinstance(source, Artifact):
            return build_derived(source, known, request, folder, check=check, say=say)
        return _build(known, request, folder, check=check)


def _adopted(source: Artifact, folder: Path) -> Built:
    """The bytes of an ONNX file from elsewhere, with its tensors inside."""
    (folder / FILE_NAME).write_bytes(onnx_bytes(source))

    def proven(artifact: Artifact) -> CheckRecord:
        return proof.prove(
            artifact, proof.expect(source, artifact.manifest.batch, artifact.manifest.numerics)
        )

    facts = {"parent_sha256": None}
    return Built(FILE_NAME, facts, {**source.manifest.versions, **library_versions()}, proven)


def _build(
    weights: Weights,
    request: ExportRequest,
    folder: Path,
    *,
    check: bool,
) -> Built:
    (batch,), baked = request.profiles(), request.bake_preprocessing
    with working("exporting to ONNX"):
        opset = request.graph_opset
        proto = onnx_from_torch(weights, batch, bake_preprocessing=baked, opset=opset)
    # PyTorch computes the reference on another thread while the file is written, validated and
    # hashed.
    pool = ThreadPoolExecutor(max_workers=1)
    expected = pool.submit(proof.expect, weights, batch, DEFAULT) if check else None
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
        "precision": DEFAULT,
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
