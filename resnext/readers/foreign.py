"""ONNX files from elsewhere: parsed with the tensors that lie beside them, and refused by name if
they hold what no classifier needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from resnext.errors import BadInput

from .files import MOST_ONNX, open_file
from .graphs import MOST_GRAPH_DEPTH, check_model, parsed_model

#: Operator sets that are read: what today's runtimes take, and what their inference knows.
OPSETS = range(7, 26)
_DOMAINS = ("", "ai.onnx")
#: Operators that draw random numbers.
_RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
) | {"RandomUniformLike"}
#: Keys of a tensor's reference to another file that are numbers.
_NUMBERS = ("offset", "length")
_SHOWN = 3


def parse_foreign(data: bytes, folder: Path | None = None) -> onnx.ModelProto:
    """The model of an ONNX file that may not be an export of this toolkit.

    Args:
        data: the file.
        folder: where tensors that are stored in other files may lie, at any depth below it; None
            refuses them.

    Returns:
        The model, with all tensors inside.

    Raises:
        ValueError: not ONNX; a tensor in a file outside ``folder``, or that is not there, or is too
            short; more than 2 GB in all; or what `check_foreign` refuses. The message is one line.
        BadInput: a file of tensors cannot be read.
    """
    model = parsed_model(data)
    if folder is not None:
        _take_in(model, folder)
    check_foreign(model)
    return model


def check_foreign(model: onnx.ModelProto) -> None:
    """Check a model that is already parsed.

    Raises:
        ValueError: it draws random numbers or trains; has operators of other domains, local
            functions, graphs in nodes, sequences or texts; or is broken
            (`resnext.readers.graphs.check_model`). Names the operator.
    """
    if model.functions:
        raise ValueError(
            f"it has the local function {model.functions[0].name[:80]!r}; inline it with"
            " onnx.inliner.inline_local_functions"
        )
    if model.training_info:
        raise ValueError("it has training information")
    check_model(model, foreign=True)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", 1))
    if version not in OPSETS:
        raise ValueError(
            f"it is of opset {version}, and {OPSETS[0]} to {OPSETS[-1]} are read; convert it with"
            " onnx.version_converter"
        )
    nodes = list(_nodes(model.graph))
    _check_names(model.graph, nodes)
    custom = sorted(
        {f"{node.domain}.{node.op_type}"[:80] for node in nodes if node.domain not in _DOMAINS}
    )
    if custom:
        raise ValueError(
            f"it has operators that ONNX does not define: {_listed(custom)}; export it with"
            " ONNX's own"
        )
    _refuse_kinds(model.graph)
    off = {name for name, value in constants(model.graph) if _is_false(value)}
    for node in nodes:
        title = f"node {(node.name or next(iter(node.output), ''))[:80]!r}"
        if node.op_type in _RANDOM:
            raise ValueError(f"{title} is {node.op_type}: two runs would differ")
        if _trains(node, off):
            raise ValueError(
                f"{title} is {node.op_type} in training mode; export the network after eval()"
            )
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            raise ValueError(
                f"{title} is {node.op_type}, which runs a graph of its own, so that sizes are not"
                " known before it runs; export the network with fixed shapes"
            )


def _trains(node: onnx.NodeProto, off: set[str]) -> bool:
    """Whether ``node`` behaves as in training; ``off`` are the tensors that are false."""
    if node.op_type == "BatchNormalization":  # before opset 14, further outputs say so
        asked = any(entry.name == "training_mode" and entry.i for entry in node.attribute)
        return asked or len([*filter(None, node.output)]) > 1
    mode = node.input[2] if node.op_type == "Dropout" and len(node.input) > 2 else ""
    return bool(mode) and mode not in off


def constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Stored tensors by name: initializers, and those in nodes."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield node.output[0], attribute.t


def _is_false(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.BOOL and not any(
        tensor.raw_data or tensor.int32_data or (True,)
    )


def _check_names(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Check that every name can be printed; protobuf gives bytes for what is no UTF-8."""
    names: list[object] = [each.name for each in (*graph.input, *graph.output, *graph.initializer)]
    for node in nodes:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    for name in names:
        if not (isinstance(name, str) and name.isprintable()):
            raise ValueError(f"the name {name!r:.80} cannot be printed")


def _refuse_kinds(graph: onnx.GraphProto) -> None:
    stored = {tensor.name for tensor in graph.initializer}
    for what, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.name in stored:
                continue
            kind = value.type.WhichOneof("value")
            if kind != "tensor_type":
                shown = str(kind).removesuffix("_type").replace("_", " ")
                raise ValueError(
                    f"{what} {value.name[:80]!r} is a {shown}, and a classifier has one tensor;"
                    f" export it without (skl2onnx: options={{'zipmap': False}})"
                )
            if value.type.tensor_type.elem_type == TensorProto.STRING:
                raise ValueError(f"{what} {value.name[:80]!r} holds texts, not numbers")


def _nodes(graph: onnx.GraphProto, depth: int = 0) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
            for each in inner if depth < MOST_GRAPH_DEPTH else ():
                yield from _nodes(each, depth + 1)


def _take_in(model: onnx.ModelProto, folder: Path) -> None:
    """Read tensors that lie in other files."""
    root, left = folder.resolve(), MOST_ONNX
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = repr(tensor.name[:80])
        location = entries.get("location", "")
        path = (root / location).resolve() if location and "\0" not in location else root
        if Path(location).is_absolute() or not path.is_relative_to(root) or path == root:
            raise ValueError(
                f"the values of tensor {name} are in {location[:80]!r}, outside the folder of the"
                " file"
            )
        numbers = [entries.get(key, "0") for key in _NUMBERS]
        if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in numbers):
            raise ValueError(f"the tensor {name} has an offset or length that is no whole number")
        offset, length = map(int, numbers)
        with open_file(path, 1 << 40) as file:
            length = length or max(0, os.fstat(file.fileno()).st_size - offset)
            left -= length
            if left < 0:
                raise ValueError("it has more than 2 GB, the most that an ONNX file can hold")
            try:
                file.seek(offset)
                tensor.raw_data = file.read(length)
            except OSError as exc:
                raise BadInput(f"cannot read {path}: {exc.strerror or exc}") from exc
        if len(tensor.raw_data) != length:
            raise ValueError(f"{location[:80]!r} ends before the values of tensor {name}")
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def _tensors(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
