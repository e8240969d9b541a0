"""ONNX files, checked before a runtime parses them.

A graph holds everything that it needs: no file beside it is opened, and no tensor declares more
than it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper

#: Deepest nesting of graphs in attributes (If, Loop); exported networks have none.
MOST_GRAPH_DEPTH = 8
#: Element types of fewer than 8 bits, packed: elements in one byte.
_PACKED = {
    getattr(TensorProto, name): count
    for name, count in (
        ("UINT4", 2),
        ("INT4", 2),
        ("FLOAT4E2M1", 2),
        ("UINT2", 4),
        ("INT2", 4),
    )
    if hasattr(TensorProto, name)
}
_DOMAINS = ("", "ai.onnx")
#: Operators that make a tensor of any size from a few numbers; no export has one.
_MAKERS = {
    "ConstantOfShape",
    "EyeLike",
    "Expand",
    "Loop",
    "OneHot",
    "RandomNormal",
    "RandomUniform",
    "Resize",
    "Scan",
    "Tile",
    "Upsample",
}
#: Largest padding; the networks' is 3.
_MOST_PADDING = 64


def parsed_model(data: bytes) -> onnx.ModelProto:
    """The model in a file's bytes, not checked further.

    Raises:
        ValueError: not ONNX.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as exc:  # protobuf raises many types
        raise ValueError("this is not an ONNX file, or it is cut short") from exc
    if not model.HasField("graph"):
        raise ValueError("this is not an ONNX file, or it is cut short")
    return model


def parse_onnx(data: bytes, *, foreign: bool = False) -> onnx.ModelProto:
    """The model of an ONNX file.

    Args:
        data: the file.
        foreign: it is no export of this toolkit, so that local functions, operators of other
            domains, sparse weights and training information are left to the caller.

    Raises:
        ValueError: not ONNX, or nested too deeply; a tensor in another file, with more or fewer
            values than its shape says, or of an unknown type; unless ``foreign``, a local function,
            an operator of another domain or one that makes a tensor of any size, a large padding, a
            sparse tensor or training information. The message is one line.
    """
    model = parsed_model(data)
    check_model(model, foreign=foreign)
    return model


def check_model(model: onnx.ModelProto, *, foreign: bool = False) -> None:
    """Check a model that is already parsed.

    Raises:
        ValueError: as `parse_onnx`.
    """
    if not foreign:
        if model.functions:
            raise ValueError(f"it has the local function {model.functions[0].name[:80]!r}")
        if model.training_info:
            raise ValueError("it has training information")
        domains = {entry.domain for entry in model.opset_import}
        for domain in sorted(domains.difference(_DOMAINS)):
            raise ValueError(f"it imports operators of another domain, {domain[:80]!r}")
    graphs = [model.graph, *(info.algorithm for info in model.training_info)]
    graphs += [info.initialization for info in model.training_info]
    for graph in graphs:
        _check_graph(graph, 0, foreign=foreign)
    for function in model.functions:
        _check_nodes(function.node, 0, foreign=foreign)


def _check_graph(graph: onnx.GraphProto, depth: int, *, foreign: bool) -> None:
    if depth > MOST_GRAPH_DEPTH:
        raise ValueError(f"its graphs are nested more than {MOST_GRAPH_DEPTH} deep")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    _check_sparse(graph.sparse_initializer, foreign=foreign)
    _check_nodes(graph.node, depth, foreign=foreign)


def _check_nodes(nodes: Iterable[onnx.NodeProto], depth: int, *, foreign: bool) -> None:
    for node in nodes:
        if not foreign and node.domain not in _DOMAINS:
            raise ValueError(
                f"node {node.name[:80]!r} is an operator of another domain, {node.domain[:80]!r}"
            )
        if not foreign and node.op_type in _MAKERS:
            raise ValueError(f"node {node.name[:80]!r} is {node.op_type}, which no export has")
        for attribute in node.attribute:
            most = max(attribute.ints, default=0) if attribute.name == "pads" else 0
            if not foreign and most > _MOST_PADDING:
                raise ValueError(f"node {node.name[:80]!r} pads by {most}")
            for tensor in (*attribute.tensors, attribute.t):
                _check_tensor(tensor)
            sparse = [*attribute.sparse_tensors]
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            _check_sparse(sparse, foreign=foreign)
            inner = [*attribute.graphs]
            if attribute.HasField("g"):
                inner.append(attribute.g)
            for graph in inner:
                _check_graph(graph, depth + 1, foreign=foreign)


def _check_sparse(tensors: Iterable[onnx.SparseTensorProto], *, foreign: bool) -> None:
    for tensor in tensors:
        if not foreign:
            raise ValueError(f"it has the sparse tensor {tensor.values.name[:80]!r}")
        _check_tensor(tensor.values)
        _check_tensor(tensor.indices)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """Check that the values are in the file, as many as the shape says."""
    name = repr(tensor.name[:80])
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise ValueError(f"the values of tensor {name} are in another file, which is not opened")
    if tensor.HasField("segment"):
        raise ValueError(f"the tensor {name} is in segments")
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.ByteSize():
        return  # an attribute without a tensor
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"the tensor {name} has a negative size")
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        actual, wanted = len(tensor.string_data), count
    elif tensor.HasField("raw_data"):
        actual, wanted = len(tensor.raw_data), _raw_size(tensor, count)
    else:
        try:
            field = helper.tensor_dtype_to_field(tensor.data_type)
        except (KeyError, ValueError) as exc:
            raise ValueError(f"the tensor {name} has an unknown element type") from exc
        actual, wanted = len(getattr(tensor, field)), _field_size(tensor, count)
    if actual != wanted:
        raise ValueError(
            f"the tensor {name} does not have the values that its shape says:"
            f" {actual} instead of {wanted}"
        )


def _raw_size(tensor: onnx.TensorProto, count: int) -> int:
    """Bytes of ``count`` values."""
    if packed := _PACKED.get(tensor.data_type):
        return -(-count // packed)
    try:
        return count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"the tensor {tensor.name[:80]!r} has an unknown element type") from exc


def _field_size(tensor: onnx.TensorProto, count: int) -> int:
    """Length of the typed field that holds ``count`` values."""
    if packed := _PACKED.get(tensor.data_type):
        return -(-count // packed)
    parts = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    return count * parts
