"""Take the mean error of rounded weights out of the biases of a quantized graph.

A weight that is rounded by e adds e x to its output. Behind a ReLU, x has a mean far from zero, and
so has the error; it is taken out of the bias, which costs nothing (Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2). Here the mean is
one number for each convolution: that of all channels and positions that it reads, over the
calibration images in float32. Means of each channel gained no more on the shipped networks, and one
number can be recorded, so that the corrected biases follow from weights and record, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resnext.errors import BadInput, GateFailed

from .base import PassResult
from .graph import convolutions
from .initializers import Constants
from .quantized import convolution_weights

_STEPS = (-(2**31), 2**31 - 1)


@dataclass(frozen=True)
class CorrectBias:
    """Add to each bias what rounded weights lack on an input that is its mean everywhere.

    Attributes:
        original: the float32 graph that was quantized, with the same groups.
        means: mean of what each Conv reads, by the name of the Conv; others are left alone.
    """

    original: onnx.ModelProto
    means: Mapping[str, float]

    def requires(self, proto: onnx.ModelProto) -> None:
        """Check that each named Conv is in both graphs, and quantized.

        Raises:
            UnknownName: a graph has no such Conv.
            BadInput: its weight is not quantized, or it has no bias of its own.
        """
        constants = Constants(proto.graph)
        convolutions(self.original.graph, self.means)
        for conv in convolutions(proto.graph, self.means):
            if _dequantize(conv.input[1], proto.graph) is None:
                raise BadInput(f"the weight of convolution {conv.name!r} is not quantized")
            reader, slot = _bias(conv, proto.graph)
            if reader.input[slot] not in constants or constants.shared(reader.input[slot]):
                raise BadInput(f"convolution {conv.name!r} has no bias of its own")

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Correct a copy; ``changed`` names the Convs."""
        corrected = onnx.ModelProto()
        corrected.CopyFrom(proto)
        graph = corrected.graph
        constants, weights = Constants(graph), convolution_weights(self.original)
        changed = []
        for conv in convolutions(graph, self.means):
            lost = weights[conv.name].astype(np.float64) - _weight(conv, graph, constants)
            error = lost.reshape(len(lost), -1).sum(axis=1) * self.means[conv.name]
            reader, slot = _bias(conv, graph)
            stored = numpy_helper.to_array(constants[reader.input[slot]])
            if reader is conv:
                moved = (stored.astype(np.float64) + error).astype(stored.dtype)
            else:
                scale = numpy_helper.to_array(constants[reader.input[1]]).astype(np.float64)
                steps = stored.astype(np.float64) + np.rint(error / scale)
                moved = np.clip(steps, *_STEPS).astype(stored.dtype)
            constants.replace(reader, slot, moved, "corrected")
            changed.append(conv.name)
        return PassResult(corrected, tuple(changed))

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """On an input that is its mean everywhere, each Conv must give what the original's gives,
        up to a step of its bias; all but biases must be as before.

        Raises:
            GateFailed: names the convolution or tensor.
        """
        old, new = (Constants(proto.graph) for proto in (self.original, after))
        originals = {conv.name: conv for conv in convolutions(self.original.graph, self.means)}
        biases = set()
        for conv in convolutions(after.graph, self.means):
            reader, slot = _bias(conv, after.graph)
            biases.add(reader.input[slot])
            first = originals[conv.name]
            weight, bias = (
                numpy_helper.to_array(old[name]).astype(np.float64) for name in first.input[1:3]
            )
            stored = numpy_helper.to_array(new[reader.input[slot]])
            found, step = stored.astype(np.float64), np.zeros(len(stored))
            if reader is not conv:
                step = numpy_helper.to_array(new[reader.input[1]]).astype(np.float64)
                found = found * step
            else:
                step = 2 * np.spacing(np.maximum(abs(stored), abs(bias.astype(stored.dtype))))
            mean = self.means[conv.name]
            wanted = (weight * mean).sum(axis=tuple(range(1, weight.ndim))) + bias
            rounded = _weight(conv, after.graph, new)
            found = (rounded * mean).sum(axis=tuple(range(1, rounded.ndim))) + found
            size = abs(wanted) + (abs(weight) * abs(mean)).sum(axis=tuple(range(1, weight.ndim)))
            odd = abs(found - wanted) > step.astype(np.float64) * 1.01 + size * 1e-6
            if odd.any():
                raise GateFailed(
                    f"correcting biases left {int(odd.sum())} channels of {conv.name!r} wrong"
                )
        _check_rest(before, after, biases)
        return 0.0


def _check_rest(before: onnx.ModelProto, after: onnx.ModelProto, biases: set[str]) -> None:
    kept = []
    for proto in (before, after):
        bare = onnx.ModelProto()
        bare.CopyFrom(proto)
        for tensor in bare.graph.initializer:
            if tensor.name in biases:
                form = {"name": tensor.name, "dims": tensor.dims, "data_type": tensor.data_type}
                tensor.CopyFrom(onnx.TensorProto(**form))
        kept.append(bare.SerializeToString(deterministic=True))
    if kept[0] != kept[1]:
        raise GateFailed("correcting biases changed something else in the graph")


def _dequantize(name: str, graph: onnx.GraphProto) -> onnx.NodeProto | None:
    return next(
        (
            node
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.output[0] == name
        ),
        None,
    )


def _bias(conv: onnx.NodeProto, graph: onnx.GraphProto) -> tuple[onnx.NodeProto, int]:
    """The node and input that read a Conv's stored bias: the Conv, or a DequantizeLinear."""
    if len(conv.input) < 3:
        raise BadInput(f"convolution {conv.name!r} has no bias")
    node = _dequantize(conv.input[2], graph)
    return (conv, 2) if node is None else (node, 0)


def _weight(
    conv: onnx.NodeProto, graph: onnx.GraphProto, constants: Constants
) -> NDArray[np.float64]:
    """What a quantized Conv multiplies by, float64."""
    node = _dequantize(conv.input[1], graph)
    assert node is not None  # as required
    stored, scale = (
        numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[:2]
    )
    result: NDArray[Any] = stored * scale.reshape(-1, *[1] * (stored.ndim - 1))
    return result
