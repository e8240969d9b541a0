"""Pairs of convolutions between which channels can be scaled."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Chain:
    """Two convolutions with nothing but a Relu between them, which nothing else reads.

    Attributes:
        first: the Conv that writes the channels.
        tensor: the tensor between them, behind the Relu.
        second: the Conv that reads them, of any number of groups.
    """

    first: onnx.NodeProto
    tensor: str
    second: onnx.NodeProto


def chains(graph: onnx.GraphProto) -> list[Chain]:
    """Every Conv, Relu, Conv of ``graph`` whose channels only the second Conv reads, in order."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    read = {value.name for value in graph.output}

    def only_reader(name: str, operator: str) -> onnx.NodeProto | None:
        nodes = readers.get(name, [])
        alone = len(nodes) == 1 and name not in read and nodes[0].op_type == operator
        return nodes[0] if alone and nodes[0].input[0] == name else None

    found = []
    for first in graph.node:
        if first.op_type != "Conv":
            continue
        relu = only_reader(first.output[0], "Relu")
        second = relu and only_reader(relu.output[0], "Conv")
        if relu and second:
            found.append(Chain(first, relu.output[0], second))
    return found
