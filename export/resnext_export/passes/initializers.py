"""The constant tensors of an ONNX graph, and how to replace one that several nodes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class Constants:
    """The constant tensors of a graph by name.

    These are initializers that are not graph inputs, and values of Constant nodes.

    Args:
        graph: the graph, which the methods change in place.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        inputs = {value.name for value in graph.input}
        internal = (
            tensor
            for tensor in graph.initializer
            if tensor.data_location != onnx.TensorProto.EXTERNAL
        )
        self._graph = graph
        self._tensors: dict[str, onnx.TensorProto] = {
            t.name: t for t in internal if t.name not in inputs
        }
        constant_nodes = (
            (node.output[0], node.attribute) for node in graph.node if node.op_type == "Constant"
        )
        self._tensors |= {
            name: value.t
            for name, values in constant_nodes
            for value in values
            if value.name == "value"
        }
        self._value_info = {value.name: value for value in graph.value_info}
        self._uses = Counter(_reads(graph))
        self._names = {
            *self._uses,
            *self._tensors,
            *inputs,
            *(name for node in graph.node for name in node.output),
        }

    def __getitem__(self, name: str) -> onnx.TensorProto:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def fresh(self, name: str) -> str:
        """Reserve a new tensor name: ``name``, with underscores appended if it is in use."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def shared(self, name: str) -> bool:
        """True if several nodes, graph outputs or subgraphs read tensor ``name``."""
        return self._uses[name] > 1

    def redirect(self, node: onnx.NodeProto, slot: int, name: str) -> None:
        """Make ``node`` read tensor ``name`` as its input ``slot``."""
        self._uses.subtract([node.input[slot]])
        self._uses.update([name])
        node.input[slot] = name

    def private_copy(
        self, node: onnx.NodeProto, slot: int, producer: onnx.NodeProto
    ) -> onnx.NodeProto:
        """A copy of ``producer`` whose output only ``node`` reads, as its input ``slot``.

        The caller adds the copy to the graph.
        """
        copied = onnx.NodeProto()
        copied.CopyFrom(producer)
        copied.name = f"{node.name}.{producer.op_type}"
        copied.output[0] = self.fresh(f"{producer.output[0]}_merged")
        self._uses.update(copied.input)
        self.redirect(node, slot, copied.output[0])
        return copied

    def replace(self, node: onnx.NodeProto, slot: int, array: NDArray[Any], suffix: str) -> None:
        """Replace the constant that ``node`` reads as its input ``slot``.

        A shared constant stays for its other readers; the new one gets the name with ``suffix``.
        """
        if self.shared(node.input[slot]):
            self.redirect(node, slot, self.fresh(f"{node.input[slot]}_{suffix}"))
            self._tensors[node.input[slot]] = self._graph.initializer.add()
        name = node.input[slot]
        self._tensors[name].CopyFrom(numpy_helper.from_array(array, name))
        self.note(name, array.shape, self._tensors[name].data_type)

    def note(self, name: str, shape: Sequence[int], data_type: int | None = None) -> None:
        """Update the value_info of tensor ``name``, if the graph has one."""
        if value := self._value_info.get(name):
            element_type = data_type or value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(name, element_type, shape))


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _reads(inner)
