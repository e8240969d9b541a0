"""The shape of every tensor that an OpenVINO IR computes, inferred without OpenVINO.

OpenVINO infers shapes while it reads a graph, and evaluates what they depend on: a graph of a few
layers makes it take gigabytes. So it cannot be asked. Only operators that an export has, and their
kin, are known here; the shapes that a file declares are not believed.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .files import MIB
from .shapes import MOST_RANK, MOST_READ, TensorShape

#: Largest graph; that of an int8 ResNeXt-152 has 4 MiB.
_MOST_GRAPH = 64 * MIB
_Shape: TypeAlias = "tuple[int, ...]"
#: A layer and its port.
_Port: TypeAlias = "tuple[int, int]"
_TYPES = {"i32": np.int32, "i64": np.int64, "f32": np.float32, "u8": np.uint8, "i8": np.int8}


@dataclass(frozen=True)
class _Term:
    """A tensor: its shape, and its values if they are known and may be a shape."""

    shape: _Shape
    values: NDArray[Any] | None = None

    def known(self) -> list[int]:
        """The values."""
        if self.values is None:
            raise ValueError("it depends on what the graph computes")
        return [int(value) for value in self.values.ravel()]


def _constant(values: NDArray[Any]) -> _Term:
    return _Term(values.shape, values if values.size <= MOST_READ else None)


class IrShapes:
    """The graph of an IR.

    Args:
        graph: the XML file.
        weights: the values of all constants.

    Attributes:
        stored: number of values of each constant.

    Raises:
        ValueError: it is no graph of an IR; the message is one line.
    """

    def __init__(self, graph: bytes, weights: memoryview) -> None:
        self._weights = weights
        if len(graph) > _MOST_GRAPH:
            raise ValueError(f"its graph has {len(graph)} bytes, at most {_MOST_GRAPH} are read")
        if b"<!" in graph:
            raise ValueError("its graph has declarations, which no export has")
        try:
            root = ET.fromstring(graph.decode())
            layers, edges = root.findall("layers"), root.findall("edges")
        except (ET.ParseError, UnicodeDecodeError) as exc:
            raise ValueError(f"its graph is not XML: {exc}") from None
        if len(layers) != 1 or len(edges) != 1:
            raise ValueError("its graph needs layers and edges")
        self._layers = [_Layer(layer) for layer in layers[0]]
        self._edges: dict[_Port, _Port] = {}
        for edge in edges[0]:
            source, target = (
                (_number(edge.get(f"{end}-layer", "")), _number(edge.get(f"{end}-port", "")))
                for end in ("from", "to")
            )
            if target in self._edges:
                raise ValueError(f"two edges lead to port {target[1]} of layer {target[0]}")
            self._edges[target] = source
        self._constants = {
            layer.id: self._constant(layer) for layer in self._layers if layer.kind == "Const"
        }
        self.stored = [math.prod(term.shape) for term in self._constants.values()]

    def shapes(self, batch: int) -> Iterator[TensorShape]:
        """The inputs and what each layer computes, in the file's order.

        Args:
            batch: size of an input's first dimension, if it is dynamic.

        Raises:
            ValueError: a shape is not known before the graph runs; a layer is of an unknown type,
                or reads what no layer before it writes. The message is one line.
        """
        terms: dict[_Port, _Term] = {}
        for layer in self._layers:
            try:
                inputs = [terms[self._edges[layer.id, port]] for port in layer.inputs]
            except KeyError:
                raise ValueError(f"{layer.title} reads what no layer before it writes") from None
            try:
                outputs = self._infer(layer, inputs, batch)
            except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as exc:
                reason = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
                raise ValueError(f"{layer.title}: its shape cannot be inferred: {reason}") from exc
            for port, term in zip(layer.outputs, outputs, strict=False):
                if len(term.shape) > MOST_RANK:
                    raise ValueError(
                        f"{layer.title} has {len(term.shape)} dimensions, at most {MOST_RANK} are"
                        " accepted"
                    )
                if min(term.shape, default=0) < 0:
                    raise ValueError(f"{layer.title}: a size is negative")
                if (layer.id, port) in terms:
                    raise ValueError(f"{layer.title} is there twice")
                terms[layer.id, port] = term
                if layer.kind != "Const":
                    patches = _patches(inputs, term) if layer.kind in _WEIGHTS else 0
                    yield TensorShape(layer.title, term.shape, patches, f"{layer.id}:{port}")

    def _infer(self, layer: _Layer, inputs: list[_Term], batch: int) -> Sequence[_Term]:
        if layer.kind == "Const":
            return [self._constants[layer.id]]
        if layer.kind == "Parameter":
            first, *rest = layer.data["shape"].split(",")
            size = _number(first) if first.isdigit() else batch
            return [_Term((size, *map(_number, rest)))]
        if layer.kind in _ELEMENTWISE:
            return [_elementwise(layer, inputs)]
        if layer.kind not in _OPERATORS:
            raise ValueError("this type is not known here")
        result = _OPERATORS[layer.kind](layer, inputs)
        return result if isinstance(result, list) else [result] * len(layer.outputs)

    def _constant(self, layer: _Layer) -> _Term:
        try:
            start, size = _number(layer.data["offset"]), _number(layer.data["size"])
            shape = tuple(_numbers(layer.data.get("shape", "")))
        except (KeyError, ValueError):
            raise ValueError(f"{layer.title} has no offset, size or shape") from None
        count = math.prod(shape)
        if min(shape, default=0) < 0 or min(start, size) < 0 or start + size > len(self._weights):
            raise ValueError(f"{layer.title} lies outside the file")
        # The smallest types have 4 bits.
        if count > 2 * size:
            raise ValueError(f"{layer.title} does not have the values that its shape says")
        dtype = np.dtype(_TYPES.get(layer.data.get("element_type", ""), np.void))
        if count > MOST_READ or count * dtype.itemsize != size:
            return _Term(shape)
        return _Term(shape, np.frombuffer(self._weights, dtype, count, start).reshape(shape))


class _Layer:
    """One layer of the XML file."""

    def __init__(self, layer: ET.Element) -> None:
        self.id, self.kind = _number(layer.get("id", "")), layer.get("type", "")
        self.title = f"layer {layer.get('name', '')[:80]!r} ({self.kind[:40]})"
        data = layer.find("data")
        self.data: Mapping[str, str] = {} if data is None else data.attrib
        self.inputs = [_number(port.get("id", "")) for port in layer.findall("input/port")]
        self.outputs = [_number(port.get("id", "")) for port in layer.findall("output/port")]

    def numbers(self, name: str) -> list[int]:
        """An attribute that is a list."""
        return _numbers(self.data[name])

    def yes(self, name: str, default: str = "false") -> bool:
        """An attribute that is true or false."""
        return self.data.get(name, default).lower() in ("true", "1")


def _number(text: str) -> int:
    """A whole number, spelled in the one way that OpenVINO cannot read as another."""
    if not re.fullmatch(r" ?-?(0|[1-9][0-9]{0,17})", text):
        raise ValueError(f"{text[:40]} is no number")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",")] if text else []


def _elementwise(layer: _Layer, inputs: list[_Term]) -> _Term:
    shape = np.broadcast_shapes(*(term.shape for term in inputs))
    compute = _ELEMENTWISE[layer.kind]
    values = [term.values for term in inputs if term.values is not None]
    if compute is None or len(values) < len(inputs) or math.prod(shape) > MOST_READ:
        return _Term(shape)
    return _constant(np.asarray(compute(*values)))


def _convolution(layer: _Layer, inputs: list[_Term]) -> _Term:
    weight = inputs[1].shape
    groups = weight[0] if layer.kind == "GroupConvolution" else 1
    if layer.kind == "GroupConvolution":
        weight = weight[1:]
    channels = groups * weight[0]
    return _Term((inputs[0].shape[0], channels, *_windows(layer, inputs[0].shape[2:], weight[2:])))


def _patches(inputs: list[_Term], output: _Term) -> int:
    weight = inputs[1].shape[-len(inputs[0].shape) + 1 :]
    return math.prod(weight) * math.prod(output.shape[2:])


def _pool(layer: _Layer, inputs: list[_Term]) -> _Term:
    shape = inputs[0].shape
    return _Term((*shape[:2], *_windows(layer, shape[2:], layer.numbers("kernel"))))


def _windows(layer: _Layer, image: _Shape, kernel: Sequence[int]) -> list[int]:
    """Positions of a kernel in an image."""
    strides, padding = layer.numbers("strides"), layer.data.get("auto_pad", "explicit")
    ones, zeros = "1," * (len(image) - 1) + "1", [0] * len(image)
    dilations = _numbers(layer.data.get("dilations", ones))
    explicit = padding in ("explicit", "notset", "")
    begin = layer.numbers("pads_begin") if explicit else zeros
    end = layer.numbers("pads_end") if explicit else zeros
    if min((*strides, *dilations, *kernel)) < 1:
        raise ValueError("a stride, dilation or kernel is not positive")
    if padding.startswith("same"):
        return [-(-size // stride) for size, stride in zip(image, strides, strict=True)]
    spare = [
        size + before + after - (width - 1) * dilation - 1
        for size, before, after, width, dilation in zip(
            image, begin, end, kernel, dilations, strict=True
        )
    ]
    up = layer.data.get("rounding_type", "floor").startswith("ceil")
    return [
        (-(-free // stride) if up else free // stride) + 1
        for free, stride in zip(spare, strides, strict=True)
    ]


def _matmul(layer: _Layer, inputs: list[_Term]) -> _Term:
    first, second = (term.shape for term in inputs)
    rows = first[-1] if layer.yes("transpose_a") else first[-2]
    columns = second[-2] if layer.yes("transpose_b") else second[-1]
    return _Term((*np.broadcast_shapes(first[:-2], second[:-2]), rows, columns))


def _reduce(layer: _Layer, inputs: list[_Term]) -> _Term:
    shape = inputs[0].shape
    axes = {axis % len(shape) for axis in inputs[1].known()}
    keep = layer.yes("keep_dims")
    return _Term(
        tuple(
            1 if axis in axes else size
            for axis, size in enumerate(shape)
            if keep or axis not in axes
        )
    )


def _reshape(layer: _Layer, inputs: list[_Term]) -> _Term:
    old, new = inputs[0], inputs[1].known()
    if layer.yes("special_zero"):
        new = [old.shape[axis] if size == 0 else size for axis, size in enumerate(new)]
    if new.count(-1) == 1:
        rest = -math.prod(new)
        new[new.index(-1)] = math.prod(old.shape) // rest if rest else 0
    if math.prod(new) != math.prod(old.shape):
        raise ValueError(f"{math.prod(old.shape)} values do not fit into {new}")
    return _Term(tuple(new), None if old.values is None else old.values.reshape(new))


def _transpose(layer: _Layer, inputs: list[_Term]) -> _Term:
    del layer
    order = inputs[1].known()
    if sorted(order) != list(range(len(inputs[0].shape))):
        raise ValueError(f"{order} is no order of the dimensions")
    return _Term(tuple(inputs[0].shape[axis] for axis in order))


def _concat(layer: _Layer, inputs: list[_Term]) -> _Term:
    axis = _number(layer.data["axis"]) % len(inputs[0].shape)
    shape = list(inputs[0].shape)
    shape[axis] = sum(term.shape[axis] for term in inputs)
    values = [term.values for term in inputs if term.values is not None]
    if len(values) < len(inputs) or math.prod(shape) > MOST_READ:
        return _Term(tuple(shape))
    return _constant(np.concatenate(values, axis))


def _gather(layer: _Layer, inputs: list[_Term]) -> _Term:
    source, indices = inputs[0], inputs[1]
    (axis,) = inputs[2].known()
    if _number(layer.data.get("batch_dims", "0")):
        raise ValueError("it has batch dimensions")
    axis %= len(source.shape)
    shape = (*source.shape[:axis], *indices.shape, *source.shape[axis + 1 :])
    if source.values is None or indices.values is None or math.prod(shape) > MOST_READ:
        return _Term(shape)
    return _constant(source.values.take(indices.values, axis))


def _squeeze(layer: _Layer, inputs: list[_Term]) -> _Term:
    del layer
    shape = inputs[0].shape
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    gone = [axis % len(shape) for axis in inputs[1].known()] if len(inputs) > 1 else ones
    if not set(gone) <= set(ones):
        raise ValueError(f"{shape} cannot be squeezed along {gone}")
    return _same_values(inputs[0], [size for axis, size in enumerate(shape) if axis not in gone])


def _unsqueeze(layer: _Layer, inputs: list[_Term]) -> _Term:
    del layer
    sizes, axes = list(inputs[0].shape), inputs[1].known()
    rank = len(sizes) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        sizes.insert(axis, 1)
    return _same_values(inputs[0], sizes)


def _same_values(term: _Term, shape: Sequence[int]) -> _Term:
    return _Term(tuple(shape), None if term.values is None else term.values.reshape(shape))


def _shape_of(layer: _Layer, inputs: list[_Term]) -> _Term:
    del layer
    return _constant(np.array(inputs[0].shape, np.int64))


def _broadcast(layer: _Layer, inputs: list[_Term]) -> _Term:
    shape = tuple(inputs[1].known())
    if layer.data.get("mode", "numpy") == "bidirectional":
        shape = np.broadcast_shapes(inputs[0].shape, shape)
    values = inputs[0].values
    if values is None or math.prod(shape) > MOST_READ:
        return _Term(shape)
    return _constant(np.broadcast_to(values, shape))


def _split(layer: _Layer, inputs: list[_Term]) -> list[_Term]:
    source, lengths = inputs[0], inputs[2].known()
    (axis,) = inputs[1].known()
    axis %= len(source.shape)
    if lengths.count(-1) == 1:
        lengths[lengths.index(-1)] = source.shape[axis] - sum(lengths) - 1
    if sum(lengths) != source.shape[axis] or len(lengths) != len(layer.outputs):
        raise ValueError(f"{source.shape} cannot be split into {lengths}")
    ends = np.cumsum(lengths)[:-1]
    if source.values is not None:
        return [_constant(part) for part in np.split(source.values, ends, axis)]
    return [_Term((*source.shape[:axis], length, *source.shape[axis + 1 :])) for length in lengths]


def _slice(layer: _Layer, inputs: list[_Term]) -> _Term:
    del layer
    source, *parts = inputs
    starts, stops, steps, axes = (part.known() for part in parts)
    cuts = [slice(None)] * len(source.shape)
    for start, stop, step, axis in zip(starts, stops, steps, axes, strict=True):
        cuts[axis] = slice(start, stop, step)
    if source.values is not None:
        return _constant(source.values[tuple(cuts)])
    sizes = zip(cuts, source.shape, strict=True)
    return _Term(tuple(len(range(*cut.indices(size))) for cut, size in sizes))


def _range(layer: _Layer, inputs: list[_Term]) -> _Term:
    del layer
    bounds = [bound for term in inputs for bound in term.known()]
    count = len(range(*bounds))
    return _constant(np.arange(*bounds)) if count <= MOST_READ else _Term((count,))


#: Operators whose result is as large as their inputs broadcast to, and how they compute; None if no
#: shape is computed with them.
_ELEMENTWISE: Mapping[str, Callable[..., Any] | None] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Convert": lambda values: values,
    "Divide": lambda first, second: first // second,
    **dict.fromkeys(
        (
            *("ReLU", "Clamp", "Sigmoid", "Tanh", "Exp", "Sqrt", "Abs", "Negative", "HSwish"),
            *("FakeQuantize", "FakeConvert", "Select", "Equal", "Greater", "Less", "SoftMax"),
            *("LogicalAnd", "Power", "Floor", "Ceiling", "Round", "Elu", "Erf", "Gelu", "Log"),
        )
    ),
}
_WEIGHTS = ("Convolution", "GroupConvolution")
_OPERATORS: Mapping[str, Callable[[_Layer, list[_Term]], _Term | list[_Term]]] = {
    "Convolution": _convolution,
    "GroupConvolution": _convolution,
    "MaxPool": _pool,
    "AvgPool": _pool,
    "MatMul": _matmul,
    "ReduceMean": _reduce,
    "ReduceMax": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ShapeOf": _shape_of,
    "Broadcast": _broadcast,
    "VariadicSplit": _split,
    "Slice": _slice,
    "Range": _range,
    "Result": lambda *_: [],
    # As large as the first input, which the others scale or shift; networks from elsewhere have
    # them.
    **dict.fromkeys(
        (
            *("BatchNormInference", "HSigmoid", "LRN", "LogSoftmax", "MVN", "Mish", "NormalizeL2"),
            *("PReLU", "SoftPlus", "Swish"),
        ),
        lambda _, inputs: _Term(inputs[0].shape),
    ),
}
