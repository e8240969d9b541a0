"""The constant tensors of an ONNX graph, to read and to replace while nodes that share them stay
right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class Constants:
    """The constant tensors of a graph by name: initializers that are no inputs, and values of
    Constant nodes.

    Args:
        graph: what the methods change in place.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        given = {value.name for value in graph.input}
        inside = (
            tensor
            for tensor in graph.initializer
            if tensor.data_location != onnx.TensorProto.EXTERNAL
        )
        self._graph = graph
        self._held: dict[str, onnx.TensorProto] = {t.name: t for t in inside if t.name not in given}
        constant = (
            (node.output[0], node.attribute) for node in graph.node if node.op_type == "Constant"
        )
        self._held |= {
            name: value.t for name, values in constant for value in values if value.name == "value"
        }
        self._noted = {value.name: value for value in graph.value_info}
        self._uses = Counter(_reads(graph))
        self._taken = {
            *self._uses,
            *self._held,
            *given,
            *(name for node in graph.node for name in node.output),
        }

    def __getitem__(self, name: str) -> onnx.TensorProto:
        return self._held[name]

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def fresh(self, name: str) -> str:
        """``name``, or one like it where a tensor of the graph bears it already. It is taken from
        then on.
        """
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def shared(self, name: str) -> bool:
        """True where several nodes, graph outputs or subgraphs read tensor ``name``."""
        return self._uses[name] > 1

    def redirect(self, node: onnx.NodeProto, slot: int, name: str) -> None:
        """Make ``node`` read tensor ``name`` as its input ``slot``."""
        self._uses.subtract([node.input[slot]])
        self._uses.update([name])
        node.input[slot] = name

    def privately(
        self, node: onnx.NodeProto, slot: int, producer: onnx.NodeProto
    ) -> onnx.NodeProto:
        """A copy of ``producer`` for ``node`` alone to read as its input ``slot``; the caller adds
        it to the graph.
        """
        copied = onnx.NodeProto()
        copied.CopyFrom(producer)
        copied.name = f"{node.name}.{producer.op_type}"
        copied.output[0] = self.fresh(f"{producer.output[0]}_merged")
        self._uses.update(copied.input)
        self.redirect(node, slot, copied.output[0])
        return copied

    def replace(self, node: onnx.NodeProto, slot: int, array: NDArray[Any], suffix: str) -> None:
        """Give ``node`` another constant as its input ``slot``. One that others read too stays,
        beside the new one.
        """
        if self.shared(node.input[slot]):
            self.redirect(node, slot, self.fresh(f"{node.input[slot]}_{suffix}"))
            self._held[node.input[slot]] = self._graph.initializer.add()
        name = node.input[slot]
        self._held[name].CopyFrom(numpy_helper.from_array(array, name))
        self.note(name, array.shape, self._held[name].data_type)

    def note(self, name: str, shape: Sequence[int], data_type: int | None = None) -> None:
        """Correct shape and type of tensor ``name`` where the graph notes them."""
        if value := self._noted.get(name):
            kind = data_type or value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(name, kind, shape))


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _reads(inner)
