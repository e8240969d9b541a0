"""The whole way from a checked ONNX artifact to OpenVINO's IR: convert, write, run what was
written, seal.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import CheckRecord
from resnext.errors import UsageError
from resnext.progress import working
from resnext_export import proof
from resnext_export.publish import Built, library_versions, publish

if TYPE_CHECKING:
    from resnext.weights.spec import Weights


def export_openvino(
    parent: Artifact, weights: Weights, directory: Path, *, check: bool = True, force: bool = False
) -> Artifact:
    """Convert an ONNX artifact to OpenVINO's IR in ``directory``, whole or not at all.

    Args:
        parent: the ONNX artifact; its precision and batch sizes are the IR's.
        weights: what it was exported from, for the comparison.
        directory: folder to make; ``model.ovir`` and ``manifest.json`` appear in it together.
        check: run the written file in OpenVINO and compare with eager PyTorch.
        force: replace an artifact that is already there.

    Raises:
        UsageError: ``parent`` is no ONNX artifact, or ``directory`` is taken.
        BadArtifact: OpenVINO cannot read the model.
        SilentFallback: OpenVINO computes in another precision on this processor.
        GateFailed: the written file does not compute what PyTorch computes. Nothing is written.
    """
    if parent.manifest.kind != "onnx":
        raise UsageError(
            f"OpenVINO's IR is made from an ONNX artifact; {parent.directory} is of kind"
            f" {parent.manifest.kind}"
        )
    return publish(parent, directory, partial(_build, parent, weights), check=check, force=force)


def _build(parent: Artifact, weights: Weights, folder: Path) -> Built:
    from resnext_export.convert.openvino_from_onnx import FILE_NAME, openvino_from_onnx

    with working("converting to OpenVINO's IR"):
        (folder / FILE_NAME).write_bytes(openvino_from_onnx(parent.path, {}))

    def proven(artifact: Artifact) -> CheckRecord:
        of = parent.manifest
        return proof.prove(
            artifact, proof.expect(weights, of.batch, of.numerics, parent=parent), "openvino"
        )

    return Built(FILE_NAME, {"kind": "openvino"}, library_versions("openvino"), proven)
