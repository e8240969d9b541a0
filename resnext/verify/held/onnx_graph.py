"""Reads an ONNX file into the vocabulary of `graph`. Operators that no export has are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_graph

from .graph import (
    Constant,
    Dequantized,
    Fixed,
    Graph,
    OddGraph,
    Operation,
    Value,
    index_rows,
    reshaped,
)

_Term: TypeAlias = "Value | Fixed | None"


def read_onnx_graph(artifact: Artifact) -> Graph:
    """Read the file of an ONNX artifact.

    Raises:
        BadArtifact: `resnext.artifact.graph.onnx_graph` refuses it.
        OddGraph: it has something that no export has; names the node.
    """
    proto = onnx_graph(artifact, runs=False)
    if proto.graph.quantization_annotation:
        raise OddGraph("the file has quantization annotations, and no export has any")
    if [entry.domain for entry in proto.opset_import] not in ([""], ["ai.onnx"]):
        domains = ", ".join(entry.domain or "ai.onnx" for entry in proto.opset_import)
        raise OddGraph(f"its operators are of {domains or 'no domain'}, those of an export ai.onnx")
    reader = _Reader(proto.graph)
    for node in proto.graph.node:
        reader.read(node)
    return Graph(
        reader.inputs,
        reader.outputs(),
        {entry.key: entry.value for entry in proto.metadata_props},
        proto.opset_import[0].version,
    )


class _Reader:
    """The terms of a graph so far, by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._unread: dict[str, str] = {}
        self._terms: dict[str, Value | Fixed] = {}
        for tensor in graph.initializer:
            constant = Constant(tensor.name, numpy_helper.to_array(tensor))
            self._define(tensor.name, constant, f"tensor {tensor.name!r}")
        self.inputs: dict[str, Value] = {}
        for info in graph.input:
            dtype, shape = _typed(info)
            value = Value("Input", info.name, facts={"dtype": dtype, "shape": shape})
            self._define(info.name, value, f"the input {info.name!r}")
            self.inputs[info.name] = value

    def read(self, node: onnx.NodeProto) -> None:
        """Add what ``node`` computes."""
        title = node.name or f"{node.op_type} of {', '.join(node.output)}"
        read = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if read is None:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise OddGraph(f"node {title} is a {operator}, and no export has that operator")
        if len(node.output) != 1:
            raise OddGraph(f"node {title} has {len(node.output)} outputs, not one")
        terms: list[_Term] = []
        for name in node.input:
            if name and name not in self._terms:
                raise OddGraph(f"node {title} reads {name!r}, which nothing before it writes")
            terms.append(self._terms[name] if name else None)
            self._unread.pop(name, None)
        try:
            term = read(_Node(node, title), terms)
        except (IndexError, AttributeError, TypeError, ValueError) as exc:
            raise OddGraph(
                f"node {title} ({node.op_type}) has other inputs than in any export"
            ) from (exc)
        self._define(node.output[0], term, f"node {title}")

    def outputs(self) -> dict[str, tuple[Value, str, tuple[int | None, ...]]]:
        """The outputs with their declared types; everything else must have been read by now."""
        outputs: dict[str, tuple[Value, str, tuple[int | None, ...]]] = {}
        for info in self._graph.output:
            if info.name in outputs:
                raise OddGraph(f"two outputs have the name {info.name}")
            value = self._terms.get(info.name)
            if not isinstance(value, Value):
                raise OddGraph(f"the output {info.name!r} does not depend on the input")
            outputs[info.name] = (value, *_typed(info))
            self._unread.pop(info.name, None)
        if self._unread:
            raise OddGraph(f"nothing reads {next(iter(self._unread.values()))}")
        return outputs

    def _define(self, name: str, term: Value | Fixed, title: str) -> None:
        if name in self._terms:
            raise OddGraph(f"tensor {name!r} is written twice")
        self._terms[name] = term
        self._unread[name] = title


class _Node(Operation):
    """A node, with strict access to its attributes."""

    noun = "node"

    def __init__(self, node: onnx.NodeProto, title: str) -> None:
        self.title, self._node = title, node

    def facts(self, **defaults: Any) -> dict[str, Any]:
        """The attributes, which must be among ``defaults``."""
        found = dict(defaults)
        names = [attribute.name for attribute in self._node.attribute]
        if len({*names}) != len(names):  # which one counts is for each runtime to choose
            raise OddGraph(f"node {self.title} ({self._node.op_type}) has an attribute twice")
        for attribute in self._node.attribute:
            if attribute.name not in defaults or attribute.ref_attr_name:
                raise OddGraph(
                    f"node {self.title} ({self._node.op_type}) has an attribute {attribute.name!r},"
                    " and no export sets it"
                )
            found[attribute.name] = helper.get_attribute_value(attribute)
        return found

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the tensors that it reads."""
        return list(self._node.input)


def _conv(node: _Node, terms: list[_Term]) -> Value:
    facts = node.facts(
        group=1, pads=[0] * 4, auto_pad=b"NOTSET", strides=[1, 1], dilations=[1, 1], kernel_shape=[]
    )
    source, weight, bias = [*terms, None][:3]
    kernel = list(_shape(weight)[2:])
    if facts["auto_pad"] != b"NOTSET" or facts["kernel_shape"] not in ([], kernel):
        raise OddGraph(
            f"node {node.title} pads by auto_pad, or has another kernel than its weight ({kernel})"
        )
    return node.value(
        "Conv",
        [source],
        weight,
        bias,
        strides=facts["strides"],
        pads=facts["pads"],
        dilations=facts["dilations"],
        groups=facts["group"],
    )


def _relu(node: _Node, terms: list[_Term]) -> Value:
    node.only()
    return node.value("Relu", terms)


def _add(node: _Node, terms: list[_Term]) -> Value:
    node.only()
    first, second = terms
    if isinstance(first, Value) and second is not None:
        rows = index_rows(first, second)
        if rows is not None:
            return rows
    return node.value("Add", [first, second])


def _pool(node: _Node, terms: list[_Term]) -> Value:
    facts = node.facts(
        kernel_shape=[],
        strides=[1, 1],
        pads=[0] * 4,
        dilations=[1, 1],
        ceil_mode=0,
        auto_pad=b"NOTSET",
        storage_order=0,
    )
    if facts["auto_pad"] != b"NOTSET" or facts["storage_order"]:
        raise OddGraph(f"node {node.title} pads by auto_pad or has another storage order")
    return node.value(
        "MaxPool",
        terms,
        kernel=facts["kernel_shape"],
        strides=facts["strides"],
        pads=facts["pads"],
        dilations=facts["dilations"],
        ceil=bool(facts["ceil_mode"]),
    )


def _mean(node: _Node, terms: list[_Term]) -> Value:
    facts = node.facts(keepdims=1, noop_with_empty_axes=0)
    source, axes = terms
    return node.value("Mean", [source], axes=_ints(axes), keep=bool(facts["keepdims"]))


def _global_mean(node: _Node, terms: list[_Term]) -> Value:
    node.only()
    return node.value("Mean", terms, axes=[2, 3], keep=True)


def _reshape(node: _Node, terms: list[_Term]) -> Value | Constant:
    copies = not node.facts(allowzero=0)["allowzero"]
    source, shape = terms
    if isinstance(source, Constant):
        target = reshaped(_array(shape), source.array.shape, copies=copies)
        return Constant(source.name, source.array.reshape(target))
    return node.value("Reshape", [source], shape=_ints(shape), copies=copies)


def _gemm(node: _Node, terms: list[_Term]) -> Value:
    facts = node.facts(alpha=1.0, beta=1.0, transA=0, transB=0)
    if facts["transA"] or facts["beta"] != 1.0:
        raise OddGraph(
            f"transA of node {node.title} is {facts['transA']} and beta {facts['beta']:g}, and in"
            " an export 0 and 1"
        )
    source, weight, bias = [*terms, None][:3]
    return node.value(
        "Gemm", [source], weight, bias, alpha=facts["alpha"], transposed=bool(facts["transB"])
    )


def _cast(node: _Node, terms: list[_Term]) -> Value:
    to = node.facts(to=0)["to"]
    return node.value("Cast", terms, to=_dtype(to))


def _quantize(node: _Node, terms: list[_Term]) -> Value:
    node.only(axis=1, saturate=1, block_size=0)
    source, scale, zero = terms
    return node.value(
        "Quantize",
        [source],
        scale,
        zero,
        dtype=_array(zero).dtype.name,
        tensor=node.inputs[0],
    )


def _dequantize(node: _Node, terms: list[_Term]) -> Value | Dequantized:
    axis = node.facts(axis=1, block_size=0)
    source, scale, zero = terms
    scales, zeros = _array(scale), _array(zero)
    if axis["block_size"]:
        raise OddGraph(f"node {node.title} has a scale for each block of values")
    if isinstance(source, Constant):
        along = axis["axis"] % max(1, source.array.ndim)
        if scales.size != 1 and (along or scales.shape != source.array.shape[:1]):
            raise OddGraph(
                f"node {node.title} scales a weight along axis {along}, and an export along 0, its"
                " output channels"
            )
        if zeros.dtype != source.array.dtype or zeros.shape != scales.shape:
            raise OddGraph(f"node {node.title} has zero points of another type or number")
        return Dequantized(source.name, source.array, zeros.ravel(), scales.ravel())
    if not isinstance(source, Value) or source.op != "Quantize":
        raise OddGraph(f"node {node.title} dequantizes what was not quantized")
    before = [_array(term) for term in source.fixed]
    if any(
        a.size != 1 or b.size != 1 or a.dtype != b.dtype or a.item() != b.item()
        for a, b in zip(before, (scales, zeros), strict=True)
    ):
        raise OddGraph(
            f"node {node.title} has another scale or zero point than {source.node}, which quantizes"
        )
    return node.value(
        "Quantized",
        source.inputs,
        dtype=source.facts["dtype"],
        tensor=source.facts["tensor"],
        scale=scales.ravel(),
        zero=zeros.ravel(),
    )


def _arithmetic(op: str) -> Callable[[_Node, list[_Term]], Value]:
    def read(node: _Node, terms: list[_Term]) -> Value:
        node.only()
        source, by = terms
        return node.value(op, [source], by)

    return read


def _transpose(node: _Node, terms: list[_Term]) -> Value:
    return node.value("Transpose", terms, order=node.facts(perm=[])["perm"])


def _shape_of(node: _Node, terms: list[_Term]) -> Value:
    node.only(start=0, end=1)
    return node.value("Shape", terms)


def _squeeze(node: _Node, terms: list[_Term]) -> Value:
    node.only()
    (source,) = terms
    if not isinstance(source, Value) or source.op != "Shape":
        raise OddGraph(f"node {node.title} squeezes another tensor than the batch size")
    return node.value("Batch", source.inputs)


def _range(node: _Node, terms: list[_Term]) -> Value:
    node.only()
    start, limit, step = terms
    if not isinstance(limit, Value) or limit.op != "Batch":
        raise OddGraph(f"node {node.title} counts to something else than the batch size")
    if (_array(start).item(), _array(step).item()) != (0, 1):
        raise OddGraph(f"node {node.title} does not count from 0 by 1")
    return node.value("Rows", limit.inputs, factor=1, offset=np.zeros((), np.int64))


def _times(node: _Node, terms: list[_Term]) -> Value:
    node.only()
    source, factor = terms
    if not isinstance(source, Value) or source.op != "Rows" or source.facts["offset"].any():
        raise OddGraph(f"node {node.title} multiplies something else than a count of rows")
    return node.value(
        "Rows", source.inputs, factor=_array(factor).item(), offset=source.facts["offset"]
    )


def _unsqueeze(node: _Node, terms: list[_Term]) -> Value:
    node.only()
    source, axes = terms
    if not isinstance(source, Value) or source.op != "Rows" or _ints(axes) != [1, 2, 3]:
        raise OddGraph(f"node {node.title} adds dimensions to something else than a count of rows")
    return node.value("Rows", source.inputs, **source.facts)


def _gather(node: _Node, terms: list[_Term]) -> Value:
    axis = node.facts(axis=0)["axis"]
    source, index = terms
    if isinstance(index, Value):
        return node.value("Gather", [source, index], axis=axis)
    return node.value("Gather", [source], index, axis=axis)


#: Every operator of an export. What of it belongs to a precision is for the network to say.
_OPERATORS: Mapping[str, Callable[[_Node, list[_Term]], Value | Fixed]] = {
    "Conv": _conv,
    "Relu": _relu,
    "Add": _add,
    "MaxPool": _pool,
    "ReduceMean": _mean,
    "GlobalAveragePool": _global_mean,
    "Reshape": _reshape,
    "Gemm": _gemm,
    # half precision
    "Cast": _cast,
    # quantized
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    # baked preprocessing, and the rows that come out of it channels last
    "Div": _arithmetic("Divide"),
    "Sub": _arithmetic("Subtract"),
    "Transpose": _transpose,
    "Shape": _shape_of,
    "Squeeze": _squeeze,
    "Range": _range,
    "Mul": _times,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
}


def _dtype(data_type: int) -> str:
    try:
        return str(helper.tensor_dtype_to_np_dtype(data_type).name)
    except KeyError:
        raise OddGraph(f"a tensor is of type {data_type}, which no export has") from None


def _typed(info: onnx.ValueInfoProto) -> tuple[str, tuple[int | None, ...]]:
    tensor = info.type.tensor_type
    dims = tensor.shape.dim
    return _dtype(tensor.elem_type), tuple(
        dim.dim_value if dim.HasField("dim_value") else None for dim in dims
    )


def _array(term: _Term) -> NDArray[Any]:
    if not isinstance(term, Constant):
        raise ValueError("not a constant")
    return term.array


def _ints(term: _Term) -> list[int]:
    return [int(size) for size in _array(term).ravel()]


def _shape(term: _Term) -> tuple[int, ...]:
    return term.stored.shape if isinstance(term, Dequantized) else _array(term).shape
