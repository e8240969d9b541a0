"""The whole way from a checked ONNX artifact to OpenVINO's IR: convert, write, run what was
written, seal.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact.files import Artifact, check_destination, file_sha256, seal, staging
from resnext.errors import UsageError
from resnext.progress import working

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
    from importlib.metadata import version

    from resnext_export.convert.openvino_from_onnx import FILE_NAME, openvino_from_onnx
    from resnext_export.proof import expect, prove

    from .onnx import library_versions

    of = parent.manifest
    if of.kind != "onnx":
        raise UsageError(
            f"OpenVINO's IR is made from an ONNX artifact; {parent.directory} is of kind {of.kind}"
        )
    check_destination(directory, force=force)
    with working("converting to OpenVINO's IR"):
        data = openvino_from_onnx(parent.path, {})
    with staging(directory, force=force) as folder:
        path = folder / FILE_NAME
        path.write_bytes(data)
        manifest = of.model_copy(
            update={
                "kind": "openvino",
                "file": FILE_NAME,
                "file_sha256": file_sha256(path),
                "file_size_bytes": path.stat().st_size,
                "parent_sha256": of.file_sha256,
                "versions": {**library_versions(), "openvino": version("openvino")},
                "created": datetime.datetime.now(datetime.timezone.utc).isoformat(
                    timespec="seconds"
                ),
                "check": None,
            }
        )
        if check:
            with working("comparing the written file with PyTorch"):
                expected = expect(weights, of.batch, of.numerics, parent=parent)
                record = prove(Artifact(folder, manifest), expected, "openvino")
            manifest = manifest.model_copy(update={"check": record})
        seal(folder, manifest)
    return Artifact(directory, manifest)
