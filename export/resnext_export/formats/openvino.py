"""From an ONNX artifact to a checked OpenVINO IR: convert, write, run the file, compare, seal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import CheckRecord
from resnext.errors import UsageError
from resnext.progress import working
from resnext_export import proof
from resnext_export.convert import openvino_from_onnx as converter
from resnext_export.publish import Built, library_versions, publish

from .base import Builder

if TYPE_CHECKING:
    from resnext.weights.spec import Weights
    from resnext_export.request import ExportRequest


def export_openvino(
    parent: Artifact, weights: Weights, directory: Path, *, check: bool = True, force: bool = False
) -> Artifact:
    """Convert an ONNX artifact to OpenVINO's IR in ``directory``, whole or not at all.

    Args:
        parent: the ONNX artifact; its precision and batch sizes are the IR's.
        weights: the weights of ``parent``, for the comparison.
        directory: folder to create; ``model.ovir`` and ``manifest.json`` appear in it together.
        check: run the written file in OpenVINO and compare with eager PyTorch.
        force: replace an artifact that is already there.

    Raises:
        UsageError: ``parent`` is no ONNX artifact, or ``directory`` is taken.
        BadArtifact: OpenVINO cannot read the model.
        SilentFallback: OpenVINO computes in another precision on this processor.
        GateFailed: the written file does not match PyTorch. Nothing is written.
    """
    return publish(parent, directory, partial(_build, parent, weights), check=check, force=force)


class OpenVinoBuilder(Builder):
    """OpenVINO's IR of an ONNX artifact."""

    def key(self, request: ExportRequest, weights: Weights) -> Mapping[str, Any]:  # noqa: ARG002
        """Versions."""
        return library_versions("openvino")

    def build(
        self,
        source: Weights | Artifact,
        weights: Weights,
        request: ExportRequest,  # noqa: ARG002  # precision and batch sizes are the ONNX artifact's
        folder: Path,
        *,
        check: bool,  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
        cache: Path | None,  # noqa: ARG002
    ) -> Built:
        """Convert an ONNX artifact."""
        assert isinstance(source, Artifact)
        return _build(source, weights, folder)


def _build(parent: Artifact, weights: Weights, folder: Path) -> Built:
    if parent.manifest.kind != "onnx":
        raise UsageError(
            f"OpenVINO's IR is made from an ONNX artifact; {parent.directory} is of kind"
            f" {parent.manifest.kind}"
        )
    with working("converting to OpenVINO's IR"):
        (folder / converter.FILE_NAME).write_bytes(converter.openvino_from_onnx(parent.path, {}))

    def proven(artifact: Artifact) -> CheckRecord:
        of = parent.manifest
        return proof.prove(
            artifact, proof.expect(weights, of.batch, of.numerics, parent=parent), "openvino"
        )

    return Built(converter.FILE_NAME, {"kind": "openvino"}, library_versions("openvino"), proven)
