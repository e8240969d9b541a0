"""Merge narrow convolution groups into fewer, wider ones: the same function.

For builders that refuse narrow groups or run them slower than wide ones.
`resnext.network.forms.merge_model_groups` defines a merge and performs it here, too: weights of any
type pass through it as bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from resnext.errors import BadArtifact
from resnext.network.forms import merge_model_groups
from resnext.network.model import Bottleneck

from .base import PassResult
from .graph import convolutions
from .initializers import Constants
from .merge_proof import prove_merge


@dataclass(frozen=True)
class MergeGroups:
    """Merge neighboring groups of grouped convolutions until each is wide enough.

    Each Conv gets the smallest factor that divides its groups and reaches ``least_width``, or one
    group if there is none. Its weight (O x I/groups x kernel, of any element type) becomes
    block-diagonal: new values are zero or, behind a DequantizeLinear, the channel's zero point.
    Node names, scales and biases are kept.

    Attributes:
        least_width: minimum input channels per group.
        only: names of the Convs to merge; those with one group are left alone. None means all.
    """

    least_width: int
    only: Collection[str] | None = None

    def requires(self, proto: onnx.ModelProto) -> None:
        """Check the grouped convolutions.

        Raises:
            UnknownName: ``only`` has a name that no Conv has.
            BadArtifact: a Conv's weight is not a constant of this file, does not fit its groups, or
                is quantized along another axis than its output channels.
        """
        constants = Constants(proto.graph)
        for conv in _grouped(proto.graph, self.only):
            _zero_bits(_chain(conv, proto.graph, constants), constants)

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Merge the groups in a copy.

        Raises:
            UsageError: ``least_width`` is not an integer of at least 1.
        """
        merged = onnx.ModelProto()
        merged.CopyFrom(proto)
        graph = merged.graph
        constants = Constants(graph)
        convs = _grouped(graph, self.only)
        chains = [_chain(conv, graph, constants) for conv in convs]
        blocks = _merged([_bits(chain, constants) for chain in chains], self.least_width)
        changed, copies = [], {}
        for conv, chain, block in zip(convs, chains, blocks, strict=True):
            if block.conv2.groups == _group(conv).i:
                continue
            weight = numpy_helper.to_array(constants[_feed(chain[-1])])
            wide = block.conv2.weight.detach().numpy().reshape(len(weight), -1, *weight.shape[2:])
            wide = (wide ^ _zero_bits(chain, constants)).view(weight.dtype)
            copies[tuple(conv.output)] = _unshare(chain, constants)
            constants.replace(chain[-1], _slot(chain[-1]), wide, "merged")
            for node in chain[1:]:
                constants.note(node.output[0], wide.shape)
            _group(conv).i = block.conv2.groups
            changed.append(conv.name)
        nodes = [
            placed for node in graph.node for placed in (*copies.get(tuple(node.output), ()), node)
        ]
        del graph.node[:]
        graph.node.extend(nodes)
        return PassResult(merged, tuple(changed))

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """See `prove_merge`."""
        return prove_merge(before, after).max_error


def _grouped(graph: onnx.GraphProto, only: Collection[str] | None) -> list[onnx.NodeProto]:
    return [conv for conv in convolutions(graph, only) if _group(conv).i > 1]


def _group(conv: onnx.NodeProto) -> onnx.AttributeProto:
    attributes = [attribute for attribute in conv.attribute if attribute.name == "group"]
    return attributes[0] if attributes else onnx.helper.make_attribute("group", 1)


def _slot(node: onnx.NodeProto) -> int:
    return 1 if node.op_type == "Conv" else 0


def _feed(node: onnx.NodeProto) -> str:
    return str(node.input[_slot(node)])


def _chain(
    conv: onnx.NodeProto, graph: onnx.GraphProto, constants: Constants
) -> list[onnx.NodeProto]:
    """``conv``, and the Q and DQ nodes between it and its constant weight, nearest first."""
    makers = {
        node.output[0]: node
        for node in graph.node
        if node.op_type in ("DequantizeLinear", "QuantizeLinear")
    }
    chain = [conv]
    while (name := _feed(chain[-1])) not in constants:
        if name not in makers:
            raise BadArtifact(
                f"cannot merge the groups of {conv.name}: its weight {name!r} is not a constant of"
                " this file",
                hint="export the weights as initializers",
            )
        chain.append(makers[name])
    shape = tuple(constants[name].dims)
    if len(shape) < 3 or shape[0] % _group(conv).i:
        raise BadArtifact(
            f"{conv.name} has {_group(conv).i} groups, which do not fit its weight of shape {shape}"
        )
    for node in chain[1:]:
        options = {attribute.name: attribute.i for attribute in node.attribute}
        one = node.input[1] in constants and int(np.prod(constants[node.input[1]].dims)) == 1
        if options.get("block_size") or not (one or options.get("axis", 1) % len(shape) == 0):
            raise BadArtifact(
                f"cannot merge the groups of {conv.name}: {node.name or node.op_type} scales its"
                " weight along another axis than the output channels (axis 0)",
                hint="quantize it per channel or per tensor",
            )
    return chain


def _bits(chain: Sequence[onnx.NodeProto], constants: Constants) -> tuple[NDArray[Any], int]:
    """The weight's bits as integers, with zero as 0, O x I/groups x values x 1; and the groups."""
    weight = numpy_helper.to_array(constants[_feed(chain[-1])])
    bits = weight.view(f"i{weight.itemsize}") ^ _zero_bits(chain, constants)
    return bits.reshape(*weight.shape[:2], -1, 1), _group(chain[0]).i


def _zero_bits(chain: Sequence[onnx.NodeProto], constants: Constants) -> NDArray[Any]:
    """The bits of zero in each output channel, to be XORed with those of the weight."""
    tensor = constants[_feed(chain[-1])]
    last = chain[-1]
    if last.op_type != "DequantizeLinear" or len(last.input) < 3 or not last.input[2]:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.zeros(1, f"i{kind.itemsize}")  # zero has no bits set in any ONNX type
    if last.input[2] not in constants:
        raise BadArtifact(
            f"cannot merge the groups of {chain[0].name}: its zero point is not a constant of this"
            " file"
        )
    zero = numpy_helper.to_array(constants[last.input[2]])
    return zero.view(f"i{zero.itemsize}").reshape(-1, *[1] * (len(tensor.dims) - 1))


def _merged(weights: Sequence[tuple[NDArray[Any], int]], least_width: int) -> list[Bottleneck]:
    # Each block holds nothing but the weight of its grouped convolution, all that a merge changes.
    blocks = nn.ModuleList()
    for weight, groups in weights:
        with torch.device("meta"):
            blocks.append(block := Bottleneck(1, groups * weight.shape[1], 1, groups))
        block.conv2.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    return [
        block for block in merge_model_groups(blocks, least_width) if isinstance(block, Bottleneck)
    ]


def _unshare(chain: list[onnx.NodeProto], constants: Constants) -> list[onnx.NodeProto]:
    """Replace each shared node of ``chain`` with a copy; returns the copies in execution order."""
    copies: list[onnx.NodeProto] = []
    for index, node in enumerate(chain[1:], 1):
        if constants.shared(node.output[0]):
            reader = chain[index - 1]
            chain[index] = constants.private_copy(reader, _slot(reader), node)
            copies.insert(0, chain[index])
    return copies
