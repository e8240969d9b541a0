"""An ONNX graph with fewer, wider convolution groups from one with narrow groups: the same
function.

For builders that refuse narrow groups or run them slower than wide ones.
`resnext.network.forms.merge_model_groups` defines what a merge is, and does it here too: weights of
any type are carried through it as bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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

from .graph import convolutions
from .initializers import Constants


def merged_from_onnx(
    proto: onnx.ModelProto, least_width: int, only: Collection[str] | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Merge neighbouring groups of grouped convolutions until each has ``least_width`` input
    channels.

    Each Conv gets the smallest factor that divides its groups and reaches ``least_width``, or one
    group where none does. Its weight (O x I/groups x kernel, of any element type) becomes
    block-diagonal: what is new is zero or, behind a DequantizeLinear, the channel's zero point.
    Node names, scales and biases stay as they are.

    Args:
        proto: the model, weights inside; left as it is.
        least_width: input channels that each group shall have at least.
        only: names of the Convs to merge, of which those with one group are left alone; None means
            all.

    Returns:
        A copy that shares no memory with ``proto``, and the names of the Convs whose groups
        changed, in graph order.

    Raises:
        UsageError: ``least_width`` is not an integer of at least 1, or ``only`` holds a name that
            no Conv has.
        BadArtifact: a Conv's weight is no constant of this file, does not fit its groups, or is
            quantized along another axis than its output channels.
    """
    merged = onnx.ModelProto()
    merged.CopyFrom(proto)
    graph = merged.graph
    constants = Constants(graph)
    convs = [conv for conv in convolutions(graph, only) if _group(conv).i > 1]
    chains = [_chain(conv, graph, constants) for conv in convs]
    blocks = _merged([_bits(chain, constants) for chain in chains], least_width)
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
    return merged, tuple(changed)


def _group(conv: onnx.NodeProto) -> onnx.AttributeProto:
    found = [attribute for attribute in conv.attribute if attribute.name == "group"]
    return found[0] if found else onnx.helper.make_attribute("group", 1)


def _slot(node: onnx.NodeProto) -> int:
    return 1 if node.op_type == "Conv" else 0


def _feed(node: onnx.NodeProto) -> str:
    return str(node.input[_slot(node)])


def _chain(
    conv: onnx.NodeProto, graph: onnx.GraphProto, constants: Constants
) -> list[onnx.NodeProto]:
    """``conv`` and the DequantizeLinear and QuantizeLinear between it and its constant weight,
    nearest first.
    """
    makers = {
        node.output[0]: node
        for node in graph.node
        if node.op_type in ("DequantizeLinear", "QuantizeLinear")
    }
    chain = [conv]
    while (name := _feed(chain[-1])) not in constants:
        if name not in makers:
            raise BadArtifact(
                f"cannot merge the groups of {conv.name}: its weight {name!r} is no constant of"
                " this file; export the weights as initializers"
            )
        chain.append(makers[name])
    shape = tuple(constants[name].dims)
    if len(shape) < 3 or shape[0] % _group(conv).i:
        raise BadArtifact(
            f"{conv.name} has {_group(conv).i} groups, which its weight of shape {shape} does"
            " not fit"
        )
    for node in chain[1:]:
        options = {attribute.name: attribute.i for attribute in node.attribute}
        one = node.input[1] in constants and int(np.prod(constants[node.input[1]].dims)) == 1
        if options.get("block_size") or not (one or options.get("axis", 1) % len(shape) == 0):
            raise BadArtifact(
                f"cannot merge the groups of {conv.name}: {node.name or node.op_type} scales its"
                " weight along another axis than the output channels (axis 0); quantize it for"
                " each channel or for the whole tensor"
            )
    return chain


def _bits(chain: Sequence[onnx.NodeProto], constants: Constants) -> tuple[NDArray[Any], int]:
    """The weight as integers of its size, 0 for what stands for zero, as O x I/groups x values x 1;
    and the groups.
    """
    weight = numpy_helper.to_array(constants[_feed(chain[-1])])
    bits = weight.view(f"i{weight.itemsize}") ^ _zero_bits(chain, constants)
    return bits.reshape(*weight.shape[:2], -1, 1), _group(chain[0]).i


def _zero_bits(chain: Sequence[onnx.NodeProto], constants: Constants) -> NDArray[Any]:
    """The bits that stand for zero in each output channel, to be combined with those of the weight
    by XOR.
    """
    tensor = constants[_feed(chain[-1])]
    last = chain[-1]
    if last.op_type != "DequantizeLinear" or len(last.input) < 3 or not last.input[2]:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.zeros(1, f"i{kind.itemsize}")  # zero has no bits set in every type of ONNX
    if last.input[2] not in constants:
        raise BadArtifact(
            f"cannot merge the groups of {chain[0].name}: its zero point is no constant of this"
            " file"
        )
    zero = numpy_helper.to_array(constants[last.input[2]])
    return zero.view(f"i{zero.itemsize}").reshape(-1, *[1] * (len(tensor.dims) - 1))


def _merged(weights: Sequence[tuple[NDArray[Any], int]], least_width: int) -> list[Bottleneck]:
    # Blocks that are empty but for the weight of their grouped convolution, which is all that a
    # merge changes.
    blocks = nn.ModuleList()
    for weight, groups in weights:
        with torch.device("meta"):
            blocks.append(block := Bottleneck(1, groups * weight.shape[1], 1, groups))
        block.conv2.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    return [
        block for block in merge_model_groups(blocks, least_width) if isinstance(block, Bottleneck)
    ]


def _unshare(chain: list[onnx.NodeProto], constants: Constants) -> list[onnx.NodeProto]:
    """Put a copy in place of each node of ``chain`` that others read too; gives the copies, in
    running order.
    """
    copies: list[onnx.NodeProto] = []
    for index, node in enumerate(chain[1:], 1):
        if constants.shared(node.output[0]):
            reader = chain[index - 1]
            chain[index] = constants.privately(reader, _slot(reader), node)
            copies.insert(0, chain[index])
    return copies
