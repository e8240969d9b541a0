"""The shape of every tensor that an ONNX graph computes, inferred without computing any.

One node at a time, in the graph's order, so that a caller can stop at the first tensor that is too
large: over a whole graph, inference itself takes gigabytes for a few nodes that double the number
of dimensions. Shapes that the file declares for intermediate tensors are not believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from resnext.errors import first_line

#: More dimensions than any tensor of an export has.
MOST_RANK = 8
#: Constants of up to so many values can be shapes, axes or paddings, which inference reads.
MOST_READ = 64
#: Operators that exporters compute shapes with.
_ON_SHAPES = frozenset(
    ("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Mod", "Mul")
) | frozenset(("ReduceProd", "Reshape", "Slice", "Sub", "Transpose", "Unsqueeze", "Where"))
#: Convolutions, for which a runtime may lay out every patch of the image.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


class InvalidGraph(ValueError):
    """A node that is not as ONNX defines it."""


@dataclass(frozen=True)
class TensorShape:
    """One tensor.

    Attributes:
        title: what computes it, for messages.
        shape: its dimensions.
        patches: values of all patches of one image, one beside the other, that a convolution
            multiplies with its weights; 0 for other operators.
        name: its name in the graph.
        dtype: its element type, as `onnx.TensorProto` numbers it.
    """

    title: str
    shape: tuple[int, ...]
    patches: int = 0
    name: str = ""
    dtype: int = 0

    @property
    def values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def stored_values(model: onnx.ModelProto) -> list[int]:
    """Number of values of each tensor that the file stores."""
    return [math.prod(tensor.dims) for tensor in model.graph.initializer]


def tensor_shapes(model: onnx.ModelProto, batch: int) -> Iterator[TensorShape]:
    """The inputs, then what each node computes.

    Args:
        model: a checked model (`graphs.check_model`), which is not changed.
        batch: size of an input's first dimension, if it is dynamic.

    Raises:
        InvalidGraph: a node has an unknown operator, or is not as ONNX defines it.
        ValueError: a shape is not known before the graph runs; a node contains a graph, or reads
            what no node before it writes. The message is one line.
    """
    reader = _Reader(model)
    for info in model.graph.input:
        yield reader.take(info, batch)
    for node in model.graph.node:
        yield from reader.read(node)


class _Reader:
    """The types of a graph's tensors so far, and the values of those that can be shapes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._opset = max((entry.version for entry in model.opset_import), default=1)
        self._types: dict[str, onnx.TypeProto] = {}
        self._values: dict[str, onnx.TensorProto] = {}
        for tensor in model.graph.initializer:
            self._store(tensor.name, tensor)

    def take(self, info: onnx.ValueInfoProto, batch: int) -> TensorShape:
        """An input, or a stored tensor that is declared as one."""
        title = f"input {info.name[:80]!r}"
        if info.name not in self._types:
            self._types[info.name] = kind = onnx.TypeProto()
            kind.CopyFrom(info.type)
            dims = kind.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = batch
        return self._tensor(title, info.name)

    def read(self, node: onnx.NodeProto) -> Iterator[TensorShape]:
        """What ``node`` computes."""
        title = f"node {(node.name or next(iter(node.output), ''))[:80]!r} ({node.op_type[:40]})"
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ValueError(f"{title} contains a graph, which no export has")
        try:
            if value := self._known(node):
                self._store(node.output[0], value)
                return
            outputs = self._inferred(node)
        except KeyError as exc:
            raise ValueError(
                f"{title} reads {str(exc.args[0])[:80]!r}, which no node before it writes"
            ) from exc
        except onnx.defs.SchemaError as exc:
            raise InvalidGraph(f"{title} is no operator of ONNX {self._opset}") from exc
        except Exception as exc:  # InferenceError, and what pybind makes of others
            reason = first_line(exc).rpartition("] ")[2]
            raise InvalidGraph(f"{title}: its shape cannot be inferred: {reason[:200]}") from exc
        for name in filter(None, node.output):
            kind = outputs.get(name)
            if kind is None:
                raise ValueError(f"{title}: its shape is not known before it runs")
            self._types[name] = kind
            yield self._tensor(title, name, self._patches(node, kind))

    def _tensor(self, title: str, name: str, patches: int = 0) -> TensorShape:
        kind = self._types[name]
        return TensorShape(title, _shape(kind, title), patches, name, kind.tensor_type.elem_type)

    def _store(self, name: str, tensor: onnx.TensorProto) -> None:
        self._types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        if math.prod(tensor.dims) <= MOST_READ:
            self._values[name] = tensor

    def _inferred(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        return onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, self._opset),
            node,
            {name: self._types[name] for name in node.input if name},
            {name: self._values[name] for name in node.input if name in self._values},
            opset_imports=list(self._model.opset_import),
            ir_version=self._model.ir_version,
        )

    def _known(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """What ``node`` computes, if that is a constant, or follows from shapes: exporters compute
        the shape of a Reshape or Expand from that of another tensor.
        """
        if node.op_type in _ON_SHAPES and all(name in self._values for name in node.input if name):
            return self._folded(node)
        if node.op_type not in ("Constant", "Shape", "Squeeze"):
            return None
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "Constant":
            (value,) = attributes.values()
            return value if isinstance(value, onnx.TensorProto) else _tensor(value)
        if node.op_type == "Shape":
            shape = _shape(self._types[node.input[0]], "")
            return _tensor(shape[attributes.get("start", 0) : attributes.get("end")])
        if node.op_type == "Squeeze" and all(name in self._values for name in node.input):
            value, *axes = (numpy_helper.to_array(self._values[name]) for name in node.input)
            along = axes[0] if axes else attributes.get("axes")
            return _tensor(value.squeeze(None if along is None else tuple(along)))
        return None

    def _folded(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """What ``node`` computes from a few known values; None if that is no few values."""
        kind = self._inferred(node).get(node.output[0])
        if kind is None or math.prod(_shape(kind, node.op_type)) > MOST_READ:
            return None
        known = {name: self._values[name] for name in node.input if name}
        wanted = onnx.ValueInfoProto(name=node.output[0], type=kind)
        graph = helper.make_graph([node], "one", [], [wanted], list(known.values()))
        for tensor, name in zip(graph.initializer, known, strict=True):
            tensor.name = name
        model = helper.make_model(graph, opset_imports=list(self._model.opset_import))
        with np.errstate(all="ignore"):
            (value,) = ReferenceEvaluator(model).run(None, {})
        return numpy_helper.from_array(np.asarray(value))

    def _patches(self, node: onnx.NodeProto, kind: onnx.TypeProto) -> int:
        weight = _CONVOLUTIONS.get(node.op_type)
        if weight is None:
            return 0
        kernel = _shape(self._types[node.input[weight]], "")[1:]
        return math.prod(kernel) * math.prod(_shape(kind, "")[2:])


def _shape(kind: onnx.TypeProto, title: str) -> tuple[int, ...]:
    """The dimensions of a tensor.

    Raises:
        ValueError: it is no tensor, or one of its dimensions is not known.
    """
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        raise ValueError(f"{title}: its shape is not known before it runs")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    if len(shape) > MOST_RANK:
        raise ValueError(f"{title} has {len(shape)} dimensions, at most {MOST_RANK} are accepted")
    if min(shape, default=0) < 0:
        raise ValueError(f"{title}: its shape is not known before it runs")
    return shape


def _tensor(values: ArrayLike) -> onnx.TensorProto:
    array = np.asarray(values)
    return numpy_helper.from_array(array.astype(np.float32) if array.dtype.kind == "f" else array)
