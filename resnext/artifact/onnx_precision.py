"""Whether an ONNX file has the precision in its manifest, judged by its weights; nothing is run."""

from __future__ import annotations

import onnx
from onnx import helper

from resnext.errors import BadArtifact
from resnext.precision import PRECISIONS

from .files import Artifact
from .graph import onnx_graph

_HEAVY = ("Conv", "Gemm", "MatMul")


def weight_types(proto: onnx.ModelProto) -> dict[str, str]:
    """Element type of each convolution's and matrix product's weights, by node name.

    Q/DQ nodes in between are looked through.
    """
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    types = {}
    for node in proto.graph.node:
        if node.op_type not in _HEAVY:
            continue
        name = node.input[1]
        while (
            name not in kinds
            and name in makers
            and makers[name].op_type in ("DequantizeLinear", "QuantizeLinear")
        ):
            name = makers[name].input[0]
        if name in kinds:
            types[node.name] = helper.tensor_dtype_to_np_dtype(kinds[name]).name
    return types


def check_onnx_precision(artifact: Artifact) -> None:
    """Check that the weights have the element type of the manifest's precision.

    Artifacts of other formats pass.

    Raises:
        BadArtifact: some weights differ, or the file cannot be read; names the first.
    """
    manifest = artifact.manifest
    if manifest.kind != "onnx" or manifest.foreign:  # whose precision is what its graph says
        return
    types = weight_types(onnx_graph(artifact, runs=False))
    requested = PRECISIONS[manifest.precision].weight_dtype
    if odd := [
        (name, actual)
        for name, actual in types.items()
        if actual != requested and name not in manifest.left
    ]:
        name, actual = odd[0]
        raise BadArtifact(
            f"the manifest of {artifact.path} says {manifest.precision}, and the weights of {name}"
            f" are {actual} ({len(odd)} of {len(types)}): one of them was altered",
            hint="export the artifact again",
        )
