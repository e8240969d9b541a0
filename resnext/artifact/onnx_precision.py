"""Is an ONNX artifact of the precision that its manifest says? Read from the weights in the file;
nothing is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnext.errors import BadArtifact
from resnext.precision import PRECISIONS

from .files import Artifact

if TYPE_CHECKING:
    import onnx

_HEAVY = ("Conv", "Gemm", "MatMul")


def weight_types(proto: onnx.ModelProto) -> dict[str, str]:
    """Element type of each convolution's and product's weight by node name, looked up behind its
    dequantization.
    """
    from onnx import helper

    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    found = {}
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
            found[node.name] = helper.tensor_dtype_to_np_dtype(kinds[name]).name
    return found


def check_onnx_precision(artifact: Artifact) -> None:
    """Check that the weights are of the type that the manifest's precision means; other kinds of
    files are left alone.

    Raises:
        BadArtifact: they are not, or the file cannot be read; names the first.
    """
    import onnx

    manifest = artifact.manifest
    if manifest.kind != "onnx":
        return
    try:
        found = weight_types(onnx.load(artifact.path, load_external_data=False))
    except Exception as exc:  # protobuf has many names for it
        raise BadArtifact(
            f"{artifact.path}: this is not an ONNX file, or it is cut short; export the artifact"
            " again"
        ) from exc
    wanted = PRECISIONS[manifest.precision].weight_dtype
    if odd := [
        (name, kind) for name, kind in found.items() if kind != wanted and name not in manifest.left
    ]:
        name, kind = odd[0]
        raise BadArtifact(
            f"the manifest of {artifact.path} says {manifest.precision}, and the weights of {name}"
            f" are {kind} ({len(odd)} of {len(found)}): one of them was altered; export the"
            " artifact again"
        )
