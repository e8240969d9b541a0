"""Checks on every tensor that a calibrator sees: it would skip NaN without a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from resnext.errors import BadInput, first_line
from resnext.machine.faults import environment_fault
from resnext_export.passes.graph import float_tensors

#: A histogram grows by as many bins as its values outgrow those of the first images.
_MAX_GROWTH = 16.0
_PREFIX = "resnext.watch."


def with_sums(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``proto`` with one more output for each floating-point tensor.

    The output is the sum of its absolute values, which is finite only if all of them are; ReduceMin
    and ReduceMax skip NaN, as nanmin does.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    graph = watched.graph
    for name, data_type in float_tensors(proto).items():
        wide = name
        if data_type == TensorProto.FLOAT16:  # the sum would overflow
            wide = f"{_PREFIX}wide.{name}"
            graph.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
        graph.node.append(helper.make_node("ReduceL1", [wide], [_PREFIX + name], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(_PREFIX + name, TensorProto.FLOAT, []))
    return watched


class WatchedSession:
    """The part of an ONNX Runtime session that a calibrator uses, with a check on every tensor.

    Attributes:
        first: index of the first image of the next run.

    Args:
        session: opened on a graph from `with_sums`.
        proto: the graph before that.
        histograms: the calibrator makes histograms, whose range is set by the first images.
    """

    def __init__(self, session: Any, proto: onnx.ModelProto, *, histograms: bool) -> None:
        self.first = 0
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self._session, self._histograms = session, histograms
        self._producers = _producers(proto, float_tensors(proto))
        self._names = [output.name for output in session.get_outputs()]
        self._largest: dict[str, float] = {}

    def run(self, _names: None, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output of the graph, float16 as float32: NumPy's histograms need that.

        Raises:
            BadInput: ONNX Runtime fails, a tensor is NaN or infinite, or outgrows its histogram.
        """
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, inputs)
        except Exception as exc:
            raise environment_fault(exc) or BadInput(
                f"ONNX Runtime fails on image {self.first} or one soon after: {first_line(exc)}"
            ) from exc
        values = dict(zip(self._names, outputs, strict=True))
        for name, producer in self._producers.items():
            if not np.isfinite(values[_PREFIX + name]):
                last = self.first + len(next(iter(inputs.values()))) - 1
                raise BadInput(
                    f"tensor {name!r} ({producer}) is NaN or infinite for one of the images"
                    f" {self.first} to {last}",
                    hint="check the images and the weights",
                )
            if self._histograms and name in values:
                self._check_growth(name, values[name])
        return [
            output.astype(np.float32) if output.dtype == np.float16 else output
            for output in outputs
        ]

    def _check_growth(self, name: str, values: NDArray[Any]) -> None:
        largest = max(abs(float(values.min())), abs(float(values.max())))
        reference = self._largest.setdefault(name, largest)
        if reference == 0:
            self._largest[name] = largest
        elif largest > _MAX_GROWTH * reference:
            raise BadInput(
                f"tensor {name!r} ({self._producers[name]}) grows to {largest:.3g} at image"
                f" {self.first} or soon after, from {reference:.3g}: too far for a histogram",
                hint="shuffle the images, or calibrate with minmax",
            )


def _producers(proto: onnx.ModelProto, tensors: Iterable[str]) -> Mapping[str, str]:
    """What writes each tensor, as messages name it."""
    nodes = {
        name: f"output of {node.op_type} {node.name!r}"
        for node in proto.graph.node
        for name in node.output
    }
    return {name: nodes.get(name, "the input") for name in tensors}
