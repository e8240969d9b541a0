"""From an ONNX artifact to a checked OpenVINO IR: convert, write, run the file, compare, seal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_bytes
from resnext.artifact.manifest import CheckRecord
from resnext.errors import UsageError
from resnext.progress import working
from resnext.verify.subject import Network
from resnext_export import proof
from resnext_export.convert import openvino_from_onnx as converter
from resnext_export.publish import Built, library_versions

from .base import Builder

if TYPE_CHECKING:
    from resnext.weights.spec import Weights
    from resnext_export.request import ExportRequest


class OpenVinoBuilder(Builder):
    """OpenVINO's IR of an ONNX artifact."""

    def key(self, request: ExportRequest, weights: Network) -> Mapping[str, Any]:  # noqa: ARG002
        """Versions."""
        return library_versions("openvino")

    def build(
        self,
        source: Weights | Artifact,
        weights: Network,
        request: ExportRequest,
        folder: Path,
        *,
        check: bool,  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
        cache: Path | None,  # noqa: ARG002
    ) -> Built:
        """Convert an ONNX artifact.

        Raises:
            BadArtifact: OpenVINO cannot read the model.
            SilentFallback: OpenVINO computes in another precision on this processor.
            UsageError: layers of a half-precision network are kept in float32.
        """
        assert isinstance(source, Artifact)
        of = source.manifest
        if of.kept is not None:
            raise UsageError(
                f"{source.path} keeps {of.kept.layers[0]} in float32, and OpenVINO computes all of"
                f" an {of.precision} network in {of.precision}"
            )
        with working("converting to OpenVINO's IR"):
            ir = converter.openvino_from_onnx(onnx_bytes(source), {})
            (folder / converter.FILE_NAME).write_bytes(ir)

        def proven(artifact: Artifact) -> CheckRecord:
            expected = proof.expect(weights, of.batch, of.numerics, parent=source)
            return proof.prove(artifact, expected, "openvino")

        facts = {"kind": request.format}
        return Built(converter.FILE_NAME, facts, library_versions("openvino"), proven)
