"""Reads a packed OpenVINO IR into the vocabulary of `graph`, without OpenVINO.

Operators that no export has are refused. The shape arithmetic with which OpenVINO writes a bias or
a group is folded.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.specs import numpy_dtype
from resnext.readers.archives import read_entries, take

from .graph import (
    Constant,
    Dequantized,
    Fixed,
    Graph,
    OddGraph,
    Operation,
    Value,
    index_rows,
    rank,
    reshaped,
)

_Term: TypeAlias = "Value | Fixed"
_GRAPH, _WEIGHTS = "model.xml", "model.bin"
#: NumPy's names of element types.
_TYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
}
_QUANTIZED = ("uint8", "int8")
#: Metadata of a whole graph: where it comes from, and the ONNX file's own.
_NOTES = ("info", "Runtime_version", "framework")
#: What OpenVINO adds to the name of a node that it splits.
_QUANTIZE_SUFFIX = "_QuantizeLinear"


def read_openvino_graph(artifact: Artifact) -> Graph:
    """Read the file of an artifact of kind ``openvino``.

    Raises:
        BadArtifact: it was altered since its manifest was read.
        OddGraph: it is not a packed IR, or has something that no export has; names the layer.
    """
    file = io.BytesIO(artifact.read())
    try:
        entries = read_entries(file)
        text, weights = take(file, entries[_GRAPH]), take(file, entries[_WEIGHTS])
        if b"<!" in text:  # an export declares no document types and no entities
            raise OddGraph("its graph has declarations that no export has")
        # As text, whatever encoding it declares: OpenVINO knows fewer of them.
        root = ET.fromstring(text.decode())
    except (KeyError, ValueError, ET.ParseError) as exc:
        raise OddGraph(f"this is not a packed OpenVINO IR: {exc}") from exc
    if [part.tag for part in root] != ["layers", "edges", "rt_info"]:
        raise OddGraph("its graph has other parts than layers, edges and metadata")
    if odd := [part.tag for part in root.iterfind("rt_info/*") if part.tag not in _NOTES]:
        raise OddGraph(f"its metadata has {odd[0]}, which may change how it runs")
    reader = _Reader(root, weights)
    framework = root.find("rt_info/framework")
    metadata = {entry.tag: entry.get("value", "") for entry in framework or ()}
    return Graph(reader.inputs, reader.outputs, metadata, None)


@dataclass(frozen=True, eq=False)
class _Shifted(Constant):
    """A stored weight without its zero points: a scale follows."""

    zero: NDArray[Any] = field(default_factory=lambda: np.zeros(1))


class _Layer(Operation):
    """One layer, with strict access to its data."""

    noun = "layer"

    def __init__(self, layer: ET.Element, weights: bytes) -> None:
        self.title = layer.get("name", "")
        self.kind = layer.get("type", "")
        self.weights = weights
        data = layer.find("data")
        self._data = {} if data is None else dict(data.attrib)
        parts = Counter(part.tag for part in layer)
        odd = parts - Counter(data=1, input=1, output=1)
        odd += Counter(part.tag for part in layer.iterfind("*/port/*") if part.tag != "dim")
        if odd:
            raise OddGraph(
                f"layer {self.title} ({self.kind}) has {min(odd)}, and no export has that"
            )
        self.types = [
            port.get("precision", "").lower().replace("fp", "f")
            for port in layer.findall("output/port")
        ]
        self.shapes = [
            tuple(
                None if dim.text == "-1" else _size(dim.text or "0") for dim in port.findall("dim")
            )
            for port in layer.findall("output/port")
        ]

    def facts(self, **defaults: str) -> dict[str, str]:
        """The data, which must be among ``defaults``."""
        if odd := self._data.keys() - defaults.keys():
            raise OddGraph(
                f"layer {self.title} ({self.kind}) has an attribute {min(odd)!r}, and no export"
                " sets it"
            )
        return {**defaults, **self._data}


class _Reader:
    """The terms of a graph so far, by layer and output port."""

    def __init__(self, root: ET.Element, weights: bytes) -> None:
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, tuple[Value, str, tuple[int | None, ...]]] = {}
        edges: dict[tuple[str, str], tuple[str, str]] = {}
        for edge in root.iterfind("edges/edge"):
            end = (edge.get("to-layer", ""), edge.get("to-port", ""))
            if end in edges:
                raise OddGraph(f"two edges lead to port {end[1]} of layer {end[0]}")
            edges[end] = (edge.get("from-layer", ""), edge.get("from-port", ""))
        terms: dict[tuple[str, str], _Term] = {}
        writers: dict[tuple[str, str], _Layer] = {}
        unread: dict[str, _Layer] = {}
        for element in root.iterfind("layers/layer"):
            layer, number = _Layer(element, weights), element.get("id", "")
            try:
                sources = [
                    edges[number, port.get("id", "")] for port in element.findall("input/port")
                ]
                inputs = [terms[source] for source in sources]
            except KeyError:
                raise OddGraph(
                    f"layer {layer.title} reads something that no layer before it writes"
                ) from None
            for source in sources:
                unread.pop(source[0], None)
            if layer.kind == "Result":
                self._result(layer, inputs, writers[sources[0]])
                continue
            unread[number] = layer
            ports = [port.get("id", "") for port in element.findall("output/port")]
            for port, term in zip(ports, _read(layer, inputs), strict=True):
                if (number, port) in terms:
                    raise OddGraph(f"two layers have the number {number}")
                terms[number, port], writers[number, port] = term, layer
                if isinstance(term, Value) and term.op == "Input":
                    self.inputs[layer.title] = term
        if unread:
            raise OddGraph(f"nothing reads layer {next(iter(unread.values())).title}")

    def _result(self, layer: _Layer, inputs: list[_Term], source: _Layer) -> None:
        (value,) = inputs
        if not isinstance(value, Value):
            raise OddGraph(f"the output {layer.title} does not depend on the input")
        name = layer.title.partition("/")[0]
        if name in self.outputs:
            raise OddGraph(f"two outputs have the name {name}")
        self.outputs[name] = (value, _TYPES.get(source.types[0], ""), source.shapes[0])


def _read(layer: _Layer, inputs: list[_Term]) -> list[_Term]:
    read = _OPERATORS.get(layer.kind)
    if read is None:
        raise OddGraph(f"layer {layer.title} is a {layer.kind}, and no export has that operator")
    try:
        found = read(layer, inputs)
    except (IndexError, KeyError, AttributeError, TypeError, ValueError) as exc:
        raise OddGraph(
            f"layer {layer.title} ({layer.kind}) has other inputs than in any export"
        ) from exc
    return found if isinstance(found, list) else [found]


def _parameter(layer: _Layer, _inputs: list[_Term]) -> Value:
    facts = layer.facts(shape="", element_type="")
    sizes = [size.strip() for size in facts["shape"].split(",")]
    shape = tuple(None if size in ("?", "-1") else _size(size) for size in sizes)
    return layer.value("Input", [], dtype=_TYPES[facts["element_type"]], shape=shape)


def _const(layer: _Layer, _inputs: list[_Term]) -> Constant:
    facts = layer.facts(element_type="", shape="", offset="", size="")
    shape = tuple(_sizes(facts["shape"]) if facts["shape"].strip() else ())
    dtype = numpy_dtype(_TYPES[facts["element_type"]])
    start, size = _size(facts["offset"]), _size(facts["size"])
    if size != dtype.itemsize * int(np.prod(shape)):
        raise OddGraph(f"constant {layer.title} has {size} bytes for shape {shape}")
    array = np.frombuffer(layer.weights, dtype, int(np.prod(shape)), start)
    return Constant(layer.title, array.reshape(shape))


def _conv(layer: _Layer, inputs: list[_Term]) -> Value:
    source, weight = inputs
    groups = 1
    if layer.kind == "GroupConvolution":
        groups = _stored(weight).shape[0]
        weight = _with(weight, _stored(weight).reshape(-1, *_stored(weight).shape[2:]))
    facts = layer.facts(strides="", dilations="", pads_begin="", pads_end="", auto_pad="explicit")
    if facts["auto_pad"] != "explicit":
        raise OddGraph(f"layer {layer.title} pads by {facts['auto_pad']}")
    return layer.value(
        "Conv",
        [source],
        weight,
        None,
        strides=_sizes(facts["strides"]),
        dilations=_sizes(facts["dilations"]),
        pads=_sizes(facts["pads_begin"]) + _sizes(facts["pads_end"]),
        groups=groups,
    )


def _relu(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only()
    return layer.value("Relu", inputs)


def _add(layer: _Layer, inputs: list[_Term]) -> _Term:
    layer.only(auto_broadcast="numpy")
    first, second = inputs
    if isinstance(first, Value) and isinstance(second, Value):
        return layer.value("Add", [first, second])
    if isinstance(first, Value):
        if (rows := index_rows(first, second)) is not None:
            return rows
        shape = _stored(second).shape
        channels = {"Conv": (1, shape[1] if len(shape) == 4 else 0, 1, 1), "Gemm": shape[:1]}
        if first.op in channels and first.fixed[1] is None and shape == channels[first.op]:
            bias = _with(second, _stored(second).ravel())
            return layer.value(first.op, first.inputs, first.fixed[0], bias, **first.facts)
    raise OddGraph(f"layer {layer.title} adds a constant to something else than a layer's output")


def _pool(layer: _Layer, inputs: list[_Term]) -> list[_Term]:
    facts = layer.facts(
        strides="",
        dilations="1, 1",
        pads_begin="",
        pads_end="",
        kernel="",
        rounding_type="floor",
        auto_pad="explicit",
        index_element_type="i64",
        axis="0",
    )
    if facts["auto_pad"] != "explicit":
        raise OddGraph(f"layer {layer.title} pads by {facts['auto_pad']}")
    value = layer.value(
        "MaxPool",
        inputs,
        kernel=_sizes(facts["kernel"]),
        strides=_sizes(facts["strides"]),
        pads=_sizes(facts["pads_begin"]) + _sizes(facts["pads_end"]),
        dilations=_sizes(facts["dilations"]),
        ceil=facts["rounding_type"] != "floor",
    )
    indices = Constant(f"{layer.title}.indices", np.zeros(0))  # an output that nothing may read
    return [value, *[indices] * (len(layer.types) - 1)]


def _mean(layer: _Layer, inputs: list[_Term]) -> Value:
    source, axes = inputs
    keep = layer.facts(keep_dims="false")["keep_dims"] == "true"
    return layer.value("Mean", [source], axes=_ints(axes), keep=keep)


def _reshape(layer: _Layer, inputs: list[_Term]) -> _Term:
    copies = layer.facts(special_zero="false")["special_zero"] == "true"
    source, shape = inputs
    if isinstance(source, Value):
        return layer.value("Reshape", [source], shape=_ints(shape), copies=copies)
    stored = _stored(source)
    return _with(source, stored.reshape(reshaped(_array(shape), stored.shape, copies=copies)))


def _matmul(layer: _Layer, inputs: list[_Term]) -> Value:
    facts = layer.facts(transpose_a="false", transpose_b="false")
    source, weight = inputs
    if facts["transpose_a"] != "false":
        raise OddGraph(f"layer {layer.title} transposes its input")
    transposed = facts["transpose_b"] == "true"
    return layer.value("Gemm", [source], weight, None, alpha=1.0, transposed=transposed)


def _multiply(layer: _Layer, inputs: list[_Term]) -> _Term:
    layer.only(auto_broadcast="numpy")
    first, second = inputs
    if isinstance(first, Value) and first.op == "Gemm" and first.fixed[1] is None:
        facts = {**first.facts, "alpha": first.facts["alpha"] * float(_array(second).item())}
        return layer.value("Gemm", first.inputs, *first.fixed, **facts)
    if isinstance(first, Value) and first.op == "Rows" and not first.facts["offset"].any():
        facts = {**first.facts, "factor": first.facts["factor"] * int(_array(second).item())}
        return layer.value("Rows", first.inputs, **facts)
    if isinstance(first, Value) and first.op == "Quantize" and "zero" in first.facts:
        return _dequantized(layer, first, _array(second).ravel())
    if isinstance(first, _Shifted):
        scales = _array(second)
        if scales.size not in (1, len(first.array)) or scales.size != max(scales.shape[:1] or (1,)):
            raise OddGraph(f"layer {layer.title} scales a weight along another axis than axis 0")
        return Dequantized(first.name, first.array, first.zero, scales.ravel())
    if isinstance(first, Constant) and isinstance(second, Constant):
        name = second.name if first.array.size == 1 else first.name
        return Constant(name, np.multiply(first.array, second.array))
    raise OddGraph(f"layer {layer.title} multiplies what no export multiplies")


def _dequantized(layer: _Layer, source: Value, scale: NDArray[Any]) -> Value:
    """A pair of Q and DQ, of which OpenVINO has written the first as a FakeQuantize."""
    dtype, zero = source.facts["dtype"], source.facts["zero"]
    limits = np.iinfo(dtype)
    ends = np.array([limits.min, limits.max], np.float64)
    wanted = np.concatenate([(ends - float(zero.item())) * float(scale.item()), ends])
    if not np.allclose(source.facts["ends"], wanted, rtol=1e-6, atol=0):
        raise OddGraph(
            f"layer {layer.title} has another scale or zero point than {source.node}, which"
            " quantizes"
        )
    facts = {"dtype": dtype, "tensor": source.facts["tensor"], "scale": scale, "zero": zero}
    return layer.value("Quantized", source.inputs, **facts)


def _fake_quantize(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only(levels="256", auto_broadcast="numpy")
    source, *ends = inputs
    return layer.value(
        "Quantize", [source], ends=np.array([float(_array(end).item()) for end in ends])
    )


def _convert(layer: _Layer, inputs: list[_Term]) -> _Term:
    dtype = _TYPES[layer.facts(destination_type="")["destination_type"]]
    (source,) = inputs
    if isinstance(source, Constant):
        if source.widened or source.array.dtype.kind not in "iu" or "float" not in dtype:
            raise OddGraph(f"layer {layer.title} converts a constant to {dtype}")
        return Constant(source.name, source.array, widened=True)
    assert isinstance(source, Value)
    if source.op != "Quantize":
        return layer.value("Cast", [source], to=dtype)
    facts = dict(source.facts)
    if "dtype" not in facts and dtype in _QUANTIZED:
        tensor = layer.title.removesuffix(_QUANTIZE_SUFFIX)
        return layer.value("Quantize", source.inputs, **facts, dtype=dtype, tensor=tensor)
    if "float" not in dtype or "wide" in facts or "dtype" not in facts:
        raise OddGraph(f"layer {layer.title} converts a quantized tensor to {dtype}")
    return layer.value("Quantize", source.inputs, **facts, wide=dtype)


def _subtract(layer: _Layer, inputs: list[_Term]) -> _Term:
    layer.only(auto_broadcast="numpy")
    first, second = inputs
    if isinstance(first, Value) and first.op == "Quantize":
        zero = _array(second)
        facts = first.facts
        if zero.size != 1 or "zero" in facts or zero.dtype.name != facts["dtype"]:
            raise OddGraph(f"layer {layer.title} subtracts another zero point than an export")
        return layer.value("Quantize", first.inputs, **facts, zero=zero.ravel())
    if isinstance(first, Value):
        return layer.value("Subtract", [first], second)
    if isinstance(first, Constant) and first.widened and isinstance(second, Constant):
        zero = second.array
        if zero.dtype != first.array.dtype or zero.size not in (1, len(first.array)):
            raise OddGraph(f"layer {layer.title} has zero points of another type or number")
        return _Shifted(first.name, first.array, widened=True, zero=zero.ravel())
    return Constant(layer.title, np.subtract(_array(first), _array(second)))


def _divide(layer: _Layer, inputs: list[_Term]) -> _Term:
    layer.only(auto_broadcast="numpy", m_pythondiv="true")
    first, second = inputs
    if isinstance(first, Value):
        return layer.value("Divide", [first], second)
    return Constant(layer.title, np.floor_divide(_array(first), _array(second)))


def _shape_of(layer: _Layer, inputs: list[_Term]) -> _Term:
    layer.only(output_type="i64")
    (source,) = inputs
    if not isinstance(source, Value):
        return Constant(layer.title, np.array(_stored(source).shape, np.int64))
    if source.op == "Shape":
        return Constant(layer.title, np.array([rank(source.inputs[0])], np.int64))
    return layer.value("Shape", [source])


def _slice(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only()
    source, *ends = inputs
    if not isinstance(source, Value) or source.op != "Shape":
        raise OddGraph(f"layer {layer.title} slices another tensor than the input's shape")
    if [_ints(end) for end in ends] != [[0], [1], [1], [0]]:
        raise OddGraph(f"layer {layer.title} takes something else than the batch size")
    return layer.value("Shape", source.inputs, batch=True)


def _squeeze(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only()
    (source,) = inputs
    if not isinstance(source, Value) or not source.facts.get("batch"):
        raise OddGraph(f"layer {layer.title} squeezes another tensor than the batch size")
    return layer.value("Batch", source.inputs)


def _range(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only(output_type="i64")
    start, limit, step = inputs
    if not isinstance(limit, Value) or limit.op != "Batch":
        raise OddGraph(f"layer {layer.title} counts to something else than the batch size")
    if (_array(start).item(), _array(step).item()) != (0, 1):
        raise OddGraph(f"layer {layer.title} does not count from 0 by 1")
    return layer.value("Rows", limit.inputs, factor=1, offset=np.zeros((), np.int64))


def _unsqueeze(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only()
    source, axes = inputs
    if not isinstance(source, Value) or source.op != "Rows" or _ints(axes) != [1, 2, 3]:
        raise OddGraph(
            f"layer {layer.title} adds dimensions to something else than a count of rows"
        )
    return layer.value("Rows", source.inputs, **source.facts)


def _gather(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only(batch_dims="0")
    source, index, axis = inputs
    along = int(_array(axis).item())
    if isinstance(index, Value):
        return layer.value("Gather", [source, index], axis=along)
    return layer.value("Gather", [source], index, axis=along)


def _transpose(layer: _Layer, inputs: list[_Term]) -> Value:
    layer.only()
    source, order = inputs
    return layer.value("Transpose", [source], order=_ints(order))


def _broadcast(layer: _Layer, inputs: list[_Term]) -> Constant:
    layer.only(mode="numpy")
    source, shape = inputs
    return Constant(layer.title, np.broadcast_to(_array(source), tuple(_ints(shape))))


def _concat(layer: _Layer, inputs: list[_Term]) -> Constant:
    layer.only(axis="0")
    return Constant(layer.title, np.concatenate([_array(source) for source in inputs]))


def _split(layer: _Layer, inputs: list[_Term]) -> list[_Term]:
    layer.only()
    source, axis, lengths = inputs
    # The last length may be -1: the rest.
    cuts = np.cumsum(_ints(lengths))[:-1]
    parts = np.split(_array(source), cuts, axis=int(_array(axis).item()))
    return [Constant(f"{layer.title}.{index}", part) for index, part in enumerate(parts)]


#: Every operator of an export.
_OPERATORS: Mapping[str, Callable[[_Layer, list[_Term]], _Term | list[_Term]]] = {
    "Parameter": _parameter,
    "Const": _const,
    "Convolution": _conv,
    "GroupConvolution": _conv,
    "ReLU": _relu,
    "Add": _add,
    "MaxPool": _pool,
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "MatMul": _matmul,
    "Multiply": _multiply,
    "Convert": _convert,
    "FakeQuantize": _fake_quantize,
    "Subtract": _subtract,
    "Divide": _divide,
    "ShapeOf": _shape_of,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Range": _range,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Transpose": _transpose,
    "Broadcast": _broadcast,
    "Concat": _concat,
    "VariadicSplit": _split,
}


def _stored(term: _Term) -> NDArray[Any]:
    if isinstance(term, Dequantized):
        return term.stored
    return _array(term)


def _with(term: _Term, array: NDArray[Any]) -> Fixed:
    """The constant with its values in another shape."""
    if isinstance(term, Dequantized):
        return Dequantized(term.name, array, term.zero, term.scale)
    assert isinstance(term, Constant)
    return Constant(term.name, array, term.widened)


def _array(term: _Term) -> NDArray[Any]:
    if not isinstance(term, Constant):
        raise ValueError("not a constant")
    return term.array


def _ints(term: _Term) -> list[int]:
    return [int(size) for size in _array(term).ravel()]


def _sizes(text: str) -> list[int]:
    return [_size(size) for size in text.split(",")]


def _size(text: str) -> int:
    """A number as OpenVINO reads it: Python alone would take ``0_1`` for 1."""
    if not re.fullmatch(r" *[0-9]+ *", text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)
