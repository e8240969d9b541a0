"""An ONNX file in float64: what its weights and operators say, without the rounding of any runtime.

ONNX's own reference evaluator computes it, node by node. Weights keep their stored values; steps of
quantization stay steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun, RuntimeContextError
from onnx.reference.ops import load_op

from resnext.errors import UsageError, first_line
from resnext.readers.shapes import tensor_shapes

from .steps import DequantizeLinear, QuantizeLinear
from .windows import AveragePool, Conv, MaxPool

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
#: Images at a time, if the batch is open: the evaluator keeps every tensor of a run.
_ROWS = 1
_SHOWN = 5


#: Instead of the evaluator's own.
_OWN: tuple[type[OpRun], ...] = (Conv, MaxPool, AveragePool, DequantizeLinear)


class Float64Evaluator:
    """A model with one input and one output, ready to be evaluated in float64.

    Args:
        model: the model, which is not changed.
        cost: show what the model's precision costs instead: results that it declares as float16 or
            bfloat16 are rounded to that after each node, and steps of quantization are left out.

    Raises:
        UsageError: the reference evaluator lacks some of its operators; names them.
    """

    def __init__(self, model: onnx.ModelProto, *, cost: bool = False) -> None:
        opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
        own = {each.__name__: each for each in _OWN}
        if cost:
            own["QuantizeLinear"] = QuantizeLinear
        lacking = sorted(
            op
            for op in {node.op_type for node in model.graph.node}.difference(own)
            if not _has(op, opset)
        )
        if lacking:
            raise UsageError(
                f"ONNX's reference evaluator lacks {', '.join(lacking[:_SHOWN])} of opset {opset},"
                " so that the file cannot be its own reference"
            )
        wide = widened_to_float64(model, rounded=cost)
        stored = {tensor.name for tensor in wide.graph.initializer}
        (value,) = (value for value in wide.graph.input if value.name not in stored)
        dims = value.type.tensor_type.shape.dim
        self._name, self._batch = value.name, dims[0].dim_value or None
        self._wide = value.type.tensor_type.elem_type == TensorProto.DOUBLE
        try:
            self._evaluator = ReferenceEvaluator(wide, new_ops=list(own.values()))
        except Exception as exc:  # the evaluator's errors have no common base
            raise UsageError(
                f"ONNX's reference evaluator cannot compute the file: {first_line(exc)}"
            ) from exc

    def __call__(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """The output, N x classes, for any number of inputs; a fixed batch is padded and cut.

        Raises:
            UsageError: an operator of the reference evaluator fails.
        """
        wide = inputs.astype(np.float64) if self._wide else inputs
        size, parts = self._batch or _ROWS, []
        for start in range(0, len(wide), size):
            some = wide[start : start + size]
            full = some if self._batch is None else some[np.arange(size) % len(some)]
            try:
                with np.errstate(all="ignore"):
                    (result,) = self._evaluator.run(None, {self._name: full})
            except Exception as exc:  # the evaluator's errors have no common base
                raise UsageError(
                    f"ONNX's reference evaluator fails on the file: {first_line(exc)}"
                ) from exc
            parts.append(np.asarray(result, np.float64)[: len(some)])
        return np.concatenate(parts)


def widened_to_float64(model: onnx.ModelProto, *, rounded: bool = False) -> onnx.ModelProto:
    """``model`` with float64 instead of every other floating-point type but float8.

    Args:
        model: the model, which is not changed.
        rounded: round each result that was float16 or bfloat16 to that type.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    halves = _halves(model) if rounded else {}
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen(tensor)
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                values = np.asarray(helper.get_attribute_value(attribute), np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}/exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=halves[name]),
                    helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.DOUBLE),
                ]
    del graph.node[:]
    graph.node.extend(nodes)
    return wide


def _halves(model: onnx.ModelProto) -> dict[str, int]:
    """Computed tensors of two bytes a value, with their types."""
    types = {each.name: each.dtype for each in tensor_shapes(model, 1)}
    return {name: dtype for name, dtype in types.items() if dtype in _FLOATS[1:]}


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _has(op: str, opset: int) -> bool:
    try:
        load_op("", op, opset, evaluator_cls=ReferenceEvaluator)
    except RuntimeContextError:
        return True  # it is written as a function of others, which is looked up with its types
    except Exception:  # the evaluator's errors have no common base
        return False
    return True
