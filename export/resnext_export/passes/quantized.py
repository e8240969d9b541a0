"""What the int8 and fp8 passes share: checks before and after, weights, and calibrated ranges."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resnext.errors import BadInput, GateFailed

from .graph import convolutions, refuse_quantized

if TYPE_CHECKING:
    from resnext_export.calibration.ranges import Ranges


def check_calibrated(proto: onnx.ModelProto, ranges: Ranges) -> None:
    """Check that ``proto`` is not yet quantized and that ``ranges`` are of its weights.

    Raises:
        BadInput: it is quantized, or its metadata names other weights.
    """
    refuse_quantized(proto, "the graph")
    metadata = {prop.key: prop.value for prop in proto.metadata_props}
    weights = metadata.get("resnext.weights_sha256")
    if weights and ranges.weights_sha256 and weights != ranges.weights_sha256:
        raise BadInput(
            f"the calibration is of weights {ranges.weights_sha256[:12]}, the graph of"
            f" {weights[:12]}",
            hint="calibrate this graph",
        )


def check_quantized(proto: onnx.ModelProto, names: Collection[str], data_type: int) -> None:
    """Check that convolutions read weights of ``data_type``, and input through a Q/DQ pair.

    Args:
        proto: the quantized graph.
        names: the Convs to check.
        data_type: element type of the stored weights.

    Raises:
        GateFailed: names the first convolution that does not.
    """
    tensors = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    writers = {name: node for node in proto.graph.node for name in node.output}

    def source(name: str) -> str:
        node = writers.get(name)
        return node.input[0] if node is not None and node.op_type == "DequantizeLinear" else ""

    for conv in convolutions(proto.graph, names):
        if tensors.get(source(conv.input[1])) != data_type:
            expected = TensorProto.DataType.Name(data_type)
            raise GateFailed(f"the weight of convolution {conv.name!r} is not stored as {expected}")
        feed = writers.get(source(conv.input[0]))
        if feed is None or feed.op_type != "QuantizeLinear":
            raise GateFailed(f"the input of convolution {conv.name!r} is not quantized")


def check_kept(proto: onnx.ModelProto, names: Collection[str]) -> None:
    """Check that the weights of convolutions are floating-point constants.

    Raises:
        GateFailed: names the first convolution that was quantized although it was to be kept.
    """
    tensors = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Conv" and node.name in names:
            kind = tensors.get(node.input[1])
            if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                raise GateFailed(f"convolution {node.name!r} was to be kept, and is quantized")


def convolution_weights(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The weight (O x I/groups x kernel) of each Conv by name, in graph order.

    Raises:
        BadInput: there is no Conv; a weight is not a constant of the file, is external, or contains
            NaN or infinity.
    """
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    weights = {}
    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        tensor = tensors.get(node.input[1])
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            raise BadInput(
                f"the weight of convolution {node.name!r} is not a constant inside the file",
                hint="export it as an initializer",
            )
        weight = numpy_helper.to_array(tensor)
        if not np.isfinite(weight).all():
            raise BadInput(f"the weight of convolution {node.name!r} contains NaN or infinity")
        weights[node.name] = weight
    if not weights:
        raise BadInput("the graph has no convolution, so there is nothing to quantize")
    return weights


def range_of(name: str, proto: onnx.ModelProto, ranges: Ranges) -> tuple[float, float]:
    """The calibrated range of tensor ``name``; the output of a Cast has the range of its input.

    Raises:
        BadInput: it was not calibrated.
    """
    casts = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Cast"}
    source = name
    while source not in ranges.ranges and source in casts:
        source = casts[source]
    if source not in ranges.ranges:
        raise BadInput(
            f"the calibration has no range for tensor {name!r}: it is of another graph",
            hint="calibrate this one",
        )
    return ranges.ranges[source]


def applied_ranges(proto: onnx.ModelProto, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """The calibrated range of each tensor that the quantized graph ``proto`` quantizes."""
    return {
        node.input[0]: range_of(node.input[0], proto, ranges)
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }


def shortcuts(proto: onnx.ModelProto, keep: Collection[str] = ()) -> list[str]:
    """Convolution outputs that are the shortcut of an addition, without those of the convolutions
    ``keep``.

    If both inputs of the addition are convolution outputs, the shortcut is the one written first.
    """
    convs = {
        name: node for node in proto.graph.node if node.op_type == "Conv" for name in node.output
    }
    order = {name: index for index, name in enumerate(convs)}
    sums = (
        [name for name in node.input if name in order]
        for node in proto.graph.node
        if node.op_type == "Add"
    )
    first = [name for inputs in sums for name in sorted(inputs, key=lambda name: order[name])[:-1]]
    return [name for name in first if convs[name].name not in keep]


def finished(quantized: onnx.ModelProto, proto: onnx.ModelProto) -> onnx.ModelProto:
    """``quantized`` with the producer and metadata of ``proto`` and new shapes, checked.

    Raises:
        BadInput: it is not valid ONNX.
    """
    quantized.producer_name, quantized.producer_version = (
        proto.producer_name,
        proto.producer_version,
    )
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(proto.metadata_props)
    del quantized.graph.value_info[:]
    try:
        shaped = onnx.shape_inference.infer_shapes(
            quantized, check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(shaped)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise BadInput(
            f"the quantized graph is not valid ONNX: {str(exc).splitlines()[0]}"
        ) from exc
    return shaped
