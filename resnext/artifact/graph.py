"""The graph of an ONNX artifact: from the bytes under the manifest's digest, read strictly."""

from __future__ import annotations

from functools import partial

import onnx

from resnext.errors import BadArtifact
from resnext.readers.foreign import parse_foreign
from resnext.readers.graphs import parse_onnx
from resnext.readers.shapes import stored_values, tensor_shapes

from .files import Artifact
from .sizes import check_sizes


def onnx_bytes(artifact: Artifact) -> bytes:
    """The file of an ONNX artifact, checked, for a runtime that parses it.

    Raises:
        BadArtifact: it was altered, holds what no export of this toolkit does
            (`readers.graphs.parse_onnx`; of a file from elsewhere: `readers.foreign`), or computes
            tensors far larger than the network's (`sizes.check_sizes`).
    """
    data = artifact.read()
    _parsed(artifact, data, runs=True)
    return data


def onnx_graph(artifact: Artifact, *, runs: bool = True) -> onnx.ModelProto:
    """The parsed file of an ONNX artifact.

    Args:
        artifact: the artifact.
        runs: a runtime may compute it. If it is only read, the sizes of what it computes do not
            matter.

    Raises:
        BadArtifact: as `onnx_bytes`.
    """
    return _parsed(artifact, artifact.read(), runs=runs)


def _parsed(artifact: Artifact, data: bytes, *, runs: bool) -> onnx.ModelProto:
    try:
        model = (parse_foreign if artifact.manifest.foreign else parse_onnx)(data)
        if runs:
            check_sizes(partial(tensor_shapes, model), stored_values(model), artifact.manifest)
    except ValueError as exc:
        raise BadArtifact(f"{artifact.path}: {exc}", hint="export the artifact again") from exc
    return model
