"""What passes ask of an ONNX graph: types, convolutions, opset, whether it is quantized."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
from onnx import TensorProto, helper

from resnext.artifact.specs import numpy_dtype
from resnext.errors import BadArtifact, BadInput, UnknownName
from resnext.precision import HALVES, PRECISIONS, Precision

#: Operators whose second input is a weight.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Element type of each half precision.
HALF_TYPES: Mapping[Precision, int] = {
    name: helper.np_dtype_to_tensor_dtype(numpy_dtype(PRECISIONS[name].weight_dtype))
    for name in HALVES
}
#: Element types of activations that can be calibrated.
_CALIBRATED = (TensorProto.FLOAT, TensorProto.FLOAT16)
#: Inference would copy the values of larger constants twice, and needs only their shape.
_LARGE_BYTES = 4096


def convolutions(graph: onnx.GraphProto, names: Collection[str] | None) -> list[onnx.NodeProto]:
    """The Convs with one of these ``names``, in graph order; None means all.

    Raises:
        UnknownName: no Conv has one of the names.
    """
    convs = [node for node in graph.node if node.op_type == "Conv"]
    known = [conv.name for conv in convs]
    if unknown := sorted(set(names or ()) - set(known)):
        raise UnknownName("convolution", unknown[0], known)
    return [conv for conv in convs if names is None or conv.name in names]


def kept_nodes(graph: onnx.GraphProto, keep: Collection[str]) -> set[tuple[str, ...]]:
    """Outputs of the weighted nodes named ``keep``, and of the nodes that compute as they do.

    A node without weights computes as what it reads does: a Relu or pooling as the convolution
    before it, an addition as the convolution that was written last, which is the last one of a
    block and not its shortcut.

    Raises:
        UnknownName: no weighted node has one of the names.
    """
    known = [node.name for node in graph.node if node.op_type in WEIGHTED]
    if unknown := sorted(set(keep) - set(known)):
        raise UnknownName("layer", unknown[0], known)
    kept: set[tuple[str, ...]] = set()
    writers: dict[str, tuple[int, bool, onnx.NodeProto]] = {}
    for index, node in enumerate(graph.node):
        # Preprocessing, and counting rows, come from no weighted node.
        read = [writers[name] for name in node.input if name in writers]
        if node.op_type in WEIGHTED:
            follows = node.name in keep
        elif read:
            convs = [each for each in read if each[2].op_type == "Conv"]
            follows = max(convs or read, key=lambda each: each[0])[1]
        else:
            continue
        if follows:
            kept.add(tuple(node.output))
        writers |= dict.fromkeys(node.output, (index, follows, node))
    return kept


def groups_of(conv: onnx.NodeProto) -> int:
    """Number of groups of a Conv."""
    return next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the ONNX operator set; 0 if the file names none."""
    versions = (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return next(versions, 0)


def float_tensors(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types of the floating-point tensors that nodes read or write, in graph order, without
    constants.
    """
    shaped = onnx.shape_inference.infer_shapes(proto).graph
    values = (*shaped.value_info, *shaped.input, *shaped.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    constants = {tensor.name for tensor in proto.graph.initializer}
    names = dict.fromkeys(name for node in proto.graph.node for name in (*node.input, *node.output))
    return {
        name: types[name]
        for name in names
        if types.get(name) in _CALIBRATED and name not in constants
    }


def refuse_quantized(proto: onnx.ModelProto, title: str) -> None:
    """Refuse a graph that is already quantized.

    Args:
        proto: the graph.
        title: what the message calls it.

    Raises:
        BadInput: a node quantizes, dequantizes or computes in integers.
    """
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type.startswith(
            "QLinear"
        ):
            raise BadInput(
                f"{title} is quantized already ({node.op_type} {node.name or node.output[0]!r})",
                hint="start from the export in float32 or float16",
            )


def inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with all types and shapes inferred, without the values of large constants.

    Raises:
        BadArtifact: types or shapes are inconsistent.
    """
    light = onnx.ModelProto()
    light.CopyFrom(proto)
    for tensor in light.graph.initializer:
        if len(tensor.raw_data) > _LARGE_BYTES:
            tensor.ClearField("raw_data")
    try:
        return onnx.shape_inference.infer_shapes(
            light, check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as exc:
        reason = next((line for line in str(exc).splitlines() if line.strip()), str(exc))
        raise BadArtifact(f"the graph's types or shapes are inconsistent: {reason}") from exc
