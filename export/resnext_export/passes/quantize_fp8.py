"""An ONNX graph whose convolutions multiply in float8 (E4M3, Q/DQ form) from a calibrated one, for
TensorRT.

ONNX Runtime's quantizer has float8 for matrix products only, and sets scales by standard
deviations; here a tensor's largest value becomes the format's, as TensorRT's own tools have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.errors import BadInput
from resnext.precision import PRECISIONS

from .graph import convolutions
from .initializers import Constants
from .quantize_int8 import check_calibrated, convolution_weights, finished, range_of, shortcuts

if TYPE_CHECKING:
    from resnext_export.calibration.ranges import Ranges

#: Largest finite value of E4M3.
_LARGEST = PRECISIONS["fp8"].largest
#: First ONNX operator set whose Q and DQ know float8.
_LEAST_OPSET = 19
#: Input channels that a convolution of one group must have. TensorRT-RTX computes ResNeXt-50's stem
#: (3 channels) in the surrounding type whatever its Q/DQ say.
_LEAST_CHANNELS = 16


def fp8_from_onnx(
    proto: onnx.ModelProto, ranges: Ranges, least_width: int = 32
) -> tuple[onnx.ModelProto, tuple[tuple[str, str], ...]]:
    """Let the convolutions of ``proto`` multiply in float8 E4M3; the rest stays in the type that it
    has.

    Weights are stored in float8 with a scale for each output channel (axis 0), activations have one
    scale a tensor, and a shortcut is quantized before its addition as in `quantized_from_onnx`.
    Names of nodes, metadata, inputs and outputs stay as they are. The same arguments give the same
    bytes.

    Args:
        proto: a float32 or float16 model of opset 19 or later, weights inside; left as it is.
        ranges: what `calibrate` found for it, or for a model of the same weights and tensor names.
        least_width: channels that each group of a grouped convolution must have. TensorRT has no
            fast float8 kernels for narrower groups, and ModelOpt leaves them too;
            `merged_from_onnx` widens groups.

    Returns:
        A copy that shares no memory with ``proto``, and the convolutions that were left as they
        are, in graph order, each with the reason.

    Raises:
        BadInput: ``proto`` is quantized already, of an older opset, of other weights than
            ``ranges``, has tensors that ``ranges`` lacks, or a convolution whose weight is no
            finite float32 or float16 constant of the file; or every convolution would be left.
    """
    check_calibrated(proto, ranges)
    weights = convolution_weights(proto)
    opset = next(
        (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0
    )
    if opset < _LEAST_OPSET:
        raise BadInput(
            f"the graph is of opset {opset}, float8 needs {_LEAST_OPSET}; export it anew"
        )
    left = left_by_fp8(proto, least_width)
    if len(left) == len(weights):
        raise BadInput(
            f"no convolution can be float8: {left[0][0]} has {left[0][1]}, for one; merge groups"
            " first"
        )
    lowered = onnx.ModelProto()
    lowered.CopyFrom(proto)
    graph = lowered.graph
    constants = Constants(graph)
    kept = {name for name, _ in left}
    convs = [node for node in graph.node if node.op_type == "Conv" and node.name not in kept]
    inputs = {conv.input[0] for conv in convs}
    also = inputs | set(shortcuts(proto))
    kinds = {weights[conv.name].dtype for conv in convs}
    if len(kinds) > 1 or not kinds <= {np.dtype(np.float32), np.dtype(np.float16)}:
        raise BadInput(
            f"the convolutions are {' and '.join(sorted(map(str, kinds)))}; all must be float32 or"
            " all float16"
        )
    (kind,) = kinds
    added: dict[str, list[onnx.NodeProto]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        lower = node.op_type == "Conv" and node.name not in kept
        for slot, name in enumerate(node.input):
            if (lower and slot == 0) or (node.op_type == "Add" and name in also):
                if name not in added:
                    low, high = range_of(name, proto, ranges)
                    added[name] = _pair(
                        name, _scale(np.array(max(-low, high)), kind), graph, constants
                    )
                    nodes += added[name]
                node.input[slot] = added[name][-1].output[0]
        if lower:
            nodes.append(_stored(node, weights[node.name], graph, constants))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    return finished(lowered, proto), left


def left_by_fp8(proto: onnx.ModelProto, least_width: int = 32) -> tuple[tuple[str, str], ...]:
    """The convolutions that `fp8_from_onnx` would leave as they are, each with the reason, in graph
    order.

    Raises:
        BadInput: a weight is no constant of the file, or not finite.
    """
    weights = convolution_weights(proto)
    named = ((conv.name, conv) for conv in convolutions(proto.graph, None))
    reasons = ((name, _reason(conv, weights[name], least_width)) for name, conv in named)
    return tuple((name, reason) for name, reason in reasons if reason)


def _reason(conv: onnx.NodeProto, weight: NDArray[Any], least_width: int) -> str:
    """Why ``conv`` stays as it is, or ""."""
    width = weight.shape[1]
    groups = next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)
    if groups > 1 and width < least_width:
        return f"{width} channels a group, fewer than {least_width}"
    if groups == 1 and width < _LEAST_CHANNELS:
        return f"{width} input channels, fewer than {_LEAST_CHANNELS}"
    return ""


def _scale(largest: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """What one unit of float8 stands for, where the largest value shall be E4M3's; 1 where all is
    zero.

    A scale that float16 could only hold as a subnormal is rounded up: float8 has exponents to
        spare.
    """
    scale = np.maximum(largest / _LARGEST, np.finfo(kind).tiny)
    return np.where(largest == 0, 1, scale).astype(kind)


def _pair(
    name: str, scale: NDArray[Any], graph: onnx.GraphProto, constants: Constants
) -> list[onnx.NodeProto]:
    """Q and DQ of activation ``name``."""
    parameters = _parameters(name, scale, graph, constants)
    between, after = (
        constants.fresh(f"{name}_QuantizeLinear_Output"),
        constants.fresh(f"{name}_DequantizeLinear_Output"),
    )
    return [
        helper.make_node(
            "QuantizeLinear", [name, *parameters], [between], f"{name}_QuantizeLinear"
        ),
        helper.make_node(
            "DequantizeLinear", [between, *parameters], [after], f"{name}_DequantizeLinear"
        ),
    ]


def _stored(
    conv: onnx.NodeProto, weight: NDArray[Any], graph: onnx.GraphProto, constants: Constants
) -> onnx.NodeProto:
    """Let ``conv`` read its weight in float8 through the DequantizeLinear that is returned."""
    scale = _scale(
        np.abs(weight).astype(np.float64).reshape(len(weight), -1).max(axis=1), weight.dtype
    )
    name = f"{conv.name}.weight"
    each = scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    units = np.clip(weight.astype(np.float64) / each, -_LARGEST, _LARGEST).astype(np.float32)
    values = units.astype(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))
    parameters = _parameters(name, scale, graph, constants)
    quantized, after = (
        constants.fresh(f"{name}_quantized"),
        constants.fresh(f"{name}_DequantizeLinear_Output"),
    )
    graph.initializer.append(numpy_helper.from_array(values, quantized))
    conv.input[1] = after
    return helper.make_node(
        "DequantizeLinear", [quantized, *parameters], [after], f"{name}_DequantizeLinear", axis=0
    )


def _parameters(
    name: str, scale: NDArray[Any], graph: onnx.GraphProto, constants: Constants
) -> tuple[str, str]:
    """Names of a new scale and zero point."""
    names = constants.fresh(f"{name}_scale"), constants.fresh(f"{name}_zero_point")
    zero = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))
    graph.initializer.append(numpy_helper.from_array(scale, names[0]))
    graph.initializer.append(numpy_helper.from_array(zero, names[1]))
    return names
