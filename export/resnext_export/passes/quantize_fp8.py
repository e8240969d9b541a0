"""Quantize convolutions to float8 (E4M3, Q/DQ) for TensorRT, with calibrated ranges.

ONNX Runtime's quantizer supports float8 for matrix products only, and sets scales by standard
deviations; here a tensor's largest value maps to E4M3's largest, as in TensorRT's own tools.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.errors import BadInput
from resnext.precision import PRECISIONS

from .base import PassResult
from .graph import convolutions, opset_of
from .initializers import Constants
from .quantized import (
    check_calibrated,
    check_kept,
    check_quantized,
    convolution_weights,
    finished,
    range_of,
    shortcuts,
)

if TYPE_CHECKING:
    from resnext_export.calibration.ranges import Ranges

#: Largest finite value of E4M3.
_LARGEST = PRECISIONS["fp8"].largest
#: Minimum input channels of a convolution with one group. TensorRT-RTX computes ResNeXt-50's stem
#: (3 channels) in the surrounding type whatever its Q/DQ say.
_MIN_CHANNELS = 16


@dataclass(frozen=True)
class QuantizeFp8:
    """Let convolutions multiply in float8 E4M3; the rest keeps its type.

    Weights are stored in float8 with a scale per output channel (axis 0), activations have one
    scale per tensor, and a shortcut is quantized before its addition as in `QuantizeInt8`. Node
    names, metadata, inputs and outputs are kept. The same model and options give the same bytes.
    Narrow convolutions are skipped; the classifier is not a convolution.

    Attributes:
        ranges: calibrated on the model, or on one with the same weights and tensor names.
        least_width: minimum channels per group of a grouped convolution. TensorRT has no fast
            float8 kernels for narrower groups, and ModelOpt skips them, too; `MergeGroups` widens
            groups.
        keep: names of convolutions that keep their type, which is no reason to list them as
            skipped.
    """

    ranges: Ranges
    least_width: int = 32
    keep: Collection[str] = ()

    def requires(self, proto: onnx.ModelProto) -> None:
        """Refuse a graph that these ranges cannot quantize.

        Raises:
            BadInput: ``proto`` is already quantized, has an older opset than 19, other weights than
                ``ranges``, or a convolution whose weight is not a finite float32 or float16
                constant of the file; or every convolution would be skipped.
        """
        check_calibrated(proto, self.ranges)
        weights = convolution_weights(proto)
        if (opset := opset_of(proto)) < (least := PRECISIONS["fp8"].least_opset):
            raise BadInput(
                f"the graph has opset {opset}, float8 needs {least}", hint="export it again"
            )
        skipped = dict(skipped_by_fp8(proto, self.least_width))
        if {*skipped, *self.keep} >= set(weights):
            name, reason = next(iter(skipped.items()))
            raise BadInput(
                f"no convolution can be float8: {name} has {reason}, for one",
                hint="merge groups first",
            )
        dtypes = {
            weight.dtype
            for name, weight in weights.items()
            if name not in skipped and name not in self.keep
        }
        if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float16)}:
            raise BadInput(
                f"the convolutions are {' and '.join(sorted(map(str, dtypes)))}; all must be"
                " float32 or all float16"
            )

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Quantize a copy.

        Raises:
            BadInput: ``proto`` has tensors that ``ranges`` lacks.
        """
        lowered = onnx.ModelProto()
        lowered.CopyFrom(proto)
        graph = lowered.graph
        constants = Constants(graph)
        skipped = tuple(
            (name, reason)
            for name, reason in skipped_by_fp8(proto, self.least_width)
            if name not in self.keep
        )
        weights = convolution_weights(proto)
        names = [name for name in weights if name not in {*dict(skipped), *self.keep}]
        tensors = {conv.input[0] for conv in convolutions(graph, names)}
        tensors |= set(shortcuts(proto, self.keep))
        dtype = weights[names[0]].dtype
        added: dict[str, list[onnx.NodeProto]] = {}
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            chosen = node.op_type == "Conv" and node.name in names
            for slot, name in enumerate(node.input):
                if name in tensors and (
                    (node.op_type == "Conv" and slot == 0) or node.op_type == "Add"
                ):
                    if name not in added:
                        low, high = range_of(name, proto, self.ranges)
                        added[name] = _pair(
                            name, _scale(np.array(max(-low, high)), dtype), graph, constants
                        )
                        nodes += added[name]
                    node.input[slot] = added[name][-1].output[0]
            if chosen:
                nodes.append(_stored(node, weights[node.name], graph, constants))
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        stored = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(stored)
        return PassResult(finished(lowered, proto), tuple(names), skipped)

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """See `check_quantized`."""
        skipped = dict(skipped_by_fp8(before, self.least_width))
        names = [
            name
            for name in convolution_weights(before)
            if name not in skipped and name not in self.keep
        ]
        check_quantized(after, names, TensorProto.FLOAT8E4M3FN)
        check_kept(after, self.keep)
        return 0.0


def skipped_by_fp8(proto: onnx.ModelProto, least_width: int = 32) -> tuple[tuple[str, str], ...]:
    """The convolutions that `QuantizeFp8` skips, each with the reason, in graph order.

    Raises:
        BadInput: a weight is not a constant of the file, or not finite.
    """
    weights = convolution_weights(proto)
    named = ((conv.name, conv) for conv in convolutions(proto.graph, None))
    reasons = ((name, _reason(conv, weights[name], least_width)) for name, conv in named)
    return tuple((name, reason) for name, reason in reasons if reason)


def too_narrow(groups: int, width: int, least_width: int = 32) -> str:
    """Why `QuantizeFp8` skips a convolution, or "".

    Args:
        groups: of the convolution.
        width: input channels of a group.
        least_width: as in `QuantizeFp8`.
    """
    if groups > 1 and width < least_width:
        return f"{width} channels a group, fewer than {least_width}"
    if groups == 1 and width < _MIN_CHANNELS:
        return f"{width} input channels, fewer than {_MIN_CHANNELS}"
    return ""


def _reason(conv: onnx.NodeProto, weight: NDArray[Any], least_width: int) -> str:
    """Why ``conv`` is skipped, or ""."""
    groups = next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)
    return too_narrow(groups, weight.shape[1], least_width)


def _scale(largest: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The scale that maps ``largest`` to E4M3's largest value; 1 if all values are zero.

    A scale that would be subnormal in float16 is rounded up: float8 has exponents to spare.
    """
    scale = np.maximum(largest / _LARGEST, np.finfo(dtype).tiny)
    return np.where(largest == 0, 1, scale).astype(dtype)


def _pair(
    name: str, scale: NDArray[Any], graph: onnx.GraphProto, constants: Constants
) -> list[onnx.NodeProto]:
    """A QuantizeLinear and a DequantizeLinear for activation ``name``."""
    parameters = _parameters(name, scale, graph, constants)
    quantized, after = (
        constants.fresh(f"{name}_QuantizeLinear_Output"),
        constants.fresh(f"{name}_DequantizeLinear_Output"),
    )
    return [
        helper.make_node(
            "QuantizeLinear", [name, *parameters], [quantized], f"{name}_QuantizeLinear"
        ),
        helper.make_node(
            "DequantizeLinear", [quantized, *parameters], [after], f"{name}_DequantizeLinear"
        ),
    ]


def _stored(
    conv: onnx.NodeProto, weight: NDArray[Any], graph: onnx.GraphProto, constants: Constants
) -> onnx.NodeProto:
    """Store the weight of ``conv`` in float8; returns the DequantizeLinear that it now reads."""
    scale = _scale(
        np.abs(weight).astype(np.float64).reshape(len(weight), -1).max(axis=1), weight.dtype
    )
    name = f"{conv.name}.weight"
    divisor = scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    units = np.clip(weight.astype(np.float64) / divisor, -_LARGEST, _LARGEST).astype(np.float32)
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
    """Add a scale and a zero point to the graph; returns their names."""
    names = constants.fresh(f"{name}_scale"), constants.fresh(f"{name}_zero_point")
    zero = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))
    graph.initializer.append(numpy_helper.from_array(scale, names[0]))
    graph.initializer.append(numpy_helper.from_array(zero, names[1]))
    return names
