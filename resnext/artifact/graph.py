"""The graph of an ONNX artifact: from the bytes under the manifest's digest, read strictly."""

from __future__ import annotations

import onnx

from resnext.errors import BadArtifact
from resnext.readers.graphs import parse_onnx

from .files import Artifact


def onnx_bytes(artifact: Artifact) -> bytes:
    """The file of an ONNX artifact, checked, for a runtime that parses it.

    Raises:
        BadArtifact: it was altered, or holds what no export of this toolkit does
            (`readers.graphs.parse_onnx`).
    """
    data = artifact.read()
    _parsed(artifact, data)
    return data


def onnx_graph(artifact: Artifact) -> onnx.ModelProto:
    """The parsed file of an ONNX artifact.

    Raises:
        BadArtifact: as `onnx_bytes`.
    """
    return _parsed(artifact, artifact.read())


def _parsed(artifact: Artifact, data: bytes) -> onnx.ModelProto:
    try:
        return parse_onnx(data)
    except ValueError as exc:
        raise BadArtifact(f"{artifact.path}: {exc}", hint="export the artifact again") from exc
