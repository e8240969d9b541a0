"""Prove that a merge changed only group shapes.

Everything else must be the same bit for bit, and each merged convolution the same function in
float64. The proof shares no code with `MergeGroups`, so no bug can hide in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resnext.errors import GateFailed

from .initializers import Constants

#: The one input that a merge may change, by operator: a convolution's weight, and the tensor that
#: it is dequantized from.
_FREE_SLOT: Mapping[str, int] = MappingProxyType(
    {"Conv": 1, "DequantizeLinear": 0, "QuantizeLinear": 0}
)
#: Integer types of quantized weights; any other that QuantizeLinear writes is float8.
_INTEGER = re.compile(r"(U?)INT(\d+)")
_CONVOLUTIONS: Mapping[int, Callable[..., torch.Tensor]] = MappingProxyType(
    {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
)
#: Output pixels along each dimension when a convolution is run, before padding adds some.
_OUTPUTS = 6


@dataclass(frozen=True)
class MergeProof:
    """A merge that `prove_merge` accepted.

    Attributes:
        convs: names of the merged convolutions, in graph order.
        max_error: largest difference of their outputs in float64, relative to the root mean square
            of the output; 0 if none was merged.
    """

    convs: tuple[str, ...]
    max_error: float


def prove_merge(
    before: onnx.ModelProto, after: onnx.ModelProto, tolerance: float = 1e-10
) -> MergeProof:
    """Prove that ``after`` is ``before`` with groups of convolutions merged, and nothing else.

    Except for groups and weights of the merged convolutions, and copies of shared weights, the
    models must be the same: nodes in order with their attributes, constants byte for byte, inputs,
    outputs, metadata and opset. Each merged convolution must have its old weights, dequantized to
    float64, in the blocks, and zeros around them. Both of its forms, run in float64 over a seeded
    random input, must agree.

    Args:
        before: the model, weights inside.
        after: the merged model.
        tolerance: largest accepted difference of a convolution's outputs, relative to the root mean
            square of the output.

    Raises:
        GateFailed: names the first node, tensor or field that differs.
    """
    _compare_fields(before, after, "the model", ("graph",))
    _compare_fields(before.graph, after.graph, "the graph", ("node", "initializer", "value_info"))
    old, new = _constants(before.graph), _constants(after.graph)
    changed = _changed_constants(old, new)
    merged, read = _merged_convolutions(before.graph, after.graph, changed)
    makers = {name: node for node in before.graph.node for name in node.output}
    new_makers = {name: node for node in after.graph.node for name in node.output}
    worst = 0.0
    shapes: dict[str, tuple[int, ...]] = {}
    for was, now in merged:
        chain, new_chain = weight_chain(was, makers, old), weight_chain(now, new_makers, new)
        _compare_chains(_name(now), chain, new_chain)
        tensor, new_tensor = old[_weight_input(chain[-1])], new[_weight_input(new_chain[-1])]
        if tensor.data_type != new_tensor.data_type:
            _fail(f"the weight of {_name(now)} is stored as another type")
        shapes |= {_weight_input(node): tuple(new_tensor.dims) for node in new_chain}
        worst = max(
            worst, _error(was, now, _float64(chain, old), _float64(new_chain, new), tolerance)
        )
    if unread := (changed | read) - shapes.keys():
        _fail(f"tensor {min(unread)!r} was added or changed, and no merged convolution reads it")
    _compare_notes(before.graph, after.graph, shapes)
    return MergeProof(tuple(_name(now) for _, now in merged), worst)


def weight_chain(
    conv: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    constants: Constants | Mapping[str, TensorProto],
) -> list[onnx.NodeProto]:
    """``conv``, and the Q and DQ nodes between it and its constant weight, nearest first.

    Args:
        conv: a convolution.
        makers: the node that writes each tensor.
        constants: the constant tensors.

    Raises:
        GateFailed: the weight is not a constant.
    """
    chain = [conv]
    while (name := _weight_input(chain[-1])) not in constants:
        if name not in makers or makers[name].op_type not in ("DequantizeLinear", "QuantizeLinear"):
            _fail(f"the weight of {_name(conv)}, {name!r}, is not a constant of the file")
        chain.append(makers[name])
    return chain


def _fail(what: str) -> NoReturn:
    raise GateFailed(f"the merged graph is not the same function: {what}")


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} of {', '.join(node.output)}"


def _weight_input(node: onnx.NodeProto) -> str:
    return str(node.input[_FREE_SLOT[node.op_type]])


def _compare_fields(before: Any, after: Any, what: str, without: Collection[str]) -> None:
    was, now = (
        {field.name: value for field, value in message.ListFields()} for message in (before, after)
    )
    for name in [field.name for field in before.DESCRIPTOR.fields]:
        if name not in without and was.get(name) != now.get(name):
            _fail(f"{name} of {what} differs")


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Initializers and values of Constant nodes by name, in file order."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    if len(tensors) != len(graph.initializer):
        _fail("two initializers have the same name")
    constant = (
        (node.output[0], node.attribute) for node in graph.node if node.op_type == "Constant"
    )
    return tensors | {
        name: value.t for name, values in constant for value in values if value.name == "value"
    }


def _changed_constants(old: Mapping[str, TensorProto], new: Mapping[str, TensorProto]) -> set[str]:
    """Names of the constants that are new or changed; none may be missing or moved."""
    for name, same in zip_longest(old, (name for name in new if name in old)):
        if name != same:
            _fail(f"constant {name!r} is missing or has moved")
    return {name for name in new if name not in old or _bytes(old[name]) != _bytes(new[name])}


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _bare(node: onnx.NodeProto) -> bytes:
    """``node`` without the parts that a merge may change."""
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    if node.op_type in _FREE_SLOT and len(node.input) > _FREE_SLOT[node.op_type]:
        bare.input[_FREE_SLOT[node.op_type]] = ""
    for attribute in list(bare.attribute):
        if (node.op_type, attribute.name) == ("Conv", "group"):
            bare.attribute.remove(attribute)
        elif (node.op_type, attribute.name) == ("Constant", "value"):
            attribute.ClearField("t")  # compared with the other constants
    return _bytes(bare)


def _merged_convolutions(
    before: onnx.GraphProto, after: onnx.GraphProto, changed: Collection[str]
) -> tuple[list[tuple[onnx.NodeProto, onnx.NodeProto]], set[str]]:
    """Pairs of changed convolutions, and the tensors between them and ``changed``.

    Changes are followed through the graph: only convolutions may read them, as their weight.
    """
    outputs = {name for node in before.node for name in node.output}
    copies = {
        node.output[0]
        for node in after.node
        if node.op_type in _FREE_SLOT and outputs.isdisjoint(node.output)
    }
    differing, pairs = set(changed), []
    rest, ahead = iter(before.node), {name for node in after.node for name in node.output}
    for node in after.node:
        copied = not copies.isdisjoint(node.output)  # not by identity: both may be one model
        was = node if copied else next(rest, None)
        if was is None or _bare(was) != _bare(node):
            _fail(f"node {_name(was or node)} is missing, altered or moved")
        free = _FREE_SLOT.get(node.op_type)
        reads = {slot for slot, name in enumerate(node.input) if name in differing}
        if (reads - {free}) or not differing.isdisjoint(_inner_reads(node)):
            _fail(f"node {_name(node)} reads a changed tensor")
        if not ahead.isdisjoint(node.input):
            _fail(f"node {_name(node)} runs before its input is written")
        ahead.difference_update(node.output)
        if reads or copied or _bytes(was) != _bytes(node):
            if node.op_type == "Conv" and not copied:
                pairs.append((was, node))
            elif node.op_type != "Constant":
                differing.update(node.output)
    if (lost := next(rest, None)) is not None:
        _fail(f"node {_name(lost)} is missing")
    if ends := [value.name for value in (*after.input, *after.output) if value.name in differing]:
        _fail(f"tensor {ends[0]!r} was changed, and is an input or output of the graph")
    return pairs, differing


def _inner_reads(node: onnx.NodeProto) -> Iterator[str]:
    for graph in (
        graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)
    ):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from (*inner.input, *_inner_reads(inner))


def _compare_chains(
    conv: str, chain: list[onnx.NodeProto], new_chain: list[onnx.NodeProto]
) -> None:
    """A copied DequantizeLinear must have the scale and the attributes of its original."""
    if len(chain) != len(new_chain):
        _fail(f"the weight of {conv} is quantized differently")
    for node, copy in zip(chain[1:], new_chain[1:], strict=True):
        same = (
            node.op_type == copy.op_type
            and node.input[1:] == copy.input[1:]
            and node.domain == copy.domain
        )
        if not same or list(map(_bytes, node.attribute)) != list(map(_bytes, copy.attribute)):
            _fail(
                f"node {_name(copy)}, which dequantizes the weight of {conv}, differs from"
                f" {_name(node)}"
            )


def _compare_notes(
    before: onnx.GraphProto, after: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Shapes in value_info must be kept, except those of weights, which must be the new ones."""
    was, now = ({value.name: value for value in graph.value_info} for graph in (before, after))
    for name in dict.fromkeys((*was, *now)):
        if name not in shapes:
            same = name in was and name in now and _bytes(was[name]) == _bytes(now[name])
        elif same := name in now:
            tensor = now[name].type.tensor_type
            same = tuple(dim.dim_value for dim in tensor.shape.dim) in ((), shapes[name])
            same &= name not in was or was[name].type.tensor_type.elem_type == tensor.elem_type
        if not same:
            _fail(f"the type or shape in the value_info of tensor {name!r} differs")


def _float64(
    chain: list[onnx.NodeProto], constants: Mapping[str, TensorProto]
) -> NDArray[np.float64]:
    """The weight of ``chain[0]`` in float64, O x I/groups x kernel."""
    tensor = constants[_weight_input(chain[-1])]
    if tensor.data_location == TensorProto.EXTERNAL:
        _fail(f"the weight of {_name(chain[0])} is outside the file")
    weight = numpy_helper.to_array(tensor).astype(np.float64)
    for node in reversed(chain[1:]):
        options = _options(node)
        if missing := [name for name in node.input[1:] if name and name not in constants]:
            _fail(
                f"{missing[0]!r}, which scales the weight of {_name(chain[0])}, is not a constant"
                " of the file"
            )
        scale, zero = (constants[name] if name else None for name in (*node.input[1:], "", "")[:2])
        along = options.get("axis", 1) % weight.ndim or options.get("block_size")
        if scale is None or (along and np.prod(scale.dims) != 1):
            _fail(
                f"node {_name(node)} scales the weight along another axis than the output channels"
            )
        scales, zeros = _along(scale, weight), _along(zero, weight) if zero else np.zeros(1)
        if node.op_type == "DequantizeLinear":
            weight = (weight - zeros) * scales
        else:
            weight = _quantized(
                weight / scales, zeros, zero.data_type if zero else options.get("output_dtype", 0)
            )
    return weight


def _along(tensor: TensorProto, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """``tensor``, one value per output channel or one for all, to broadcast over ``weight``."""
    return numpy_helper.to_array(tensor).astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))


def _quantized(
    units: NDArray[np.float64], zero: NDArray[np.float64], data_type: int
) -> NDArray[np.float64]:
    if match := _INTEGER.fullmatch(TensorProto.DataType.Name(data_type or TensorProto.UINT8)):
        lowest = 0 if match[1] else -(2 ** (int(match[2]) - 1))
        return np.clip(np.rint(units) + zero, lowest, lowest + 2 ** int(match[2]) - 1)
    return units.astype(onnx.helper.tensor_dtype_to_np_dtype(data_type)).astype(np.float64)


def _error(
    was: onnx.NodeProto,
    now: onnx.NodeProto,
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    tolerance: float,
) -> float:
    """Largest difference of the outputs of both forms, relative to their root mean square."""
    groups, new_groups = _options(was).get("group", 1), _options(now).get("group", 1)
    fits = (
        new_groups
        and groups % new_groups == 0
        and groups * old.shape[1] == new_groups * new.shape[1]
    )
    if (
        not fits
        or old.shape[0] % groups
        or (len(old), *old.shape[2:]) != (len(new), *new.shape[2:])
    ):
        _fail(
            f"{_name(now)} has {new_groups} groups and a weight of shape {new.shape}, from {groups}"
            f" and {old.shape}"
        )
    _compare_blocks(_name(now), groups, groups // new_groups, old, new)
    outputs, new_outputs = _run(was, groups, old), _run(now, new_groups, new)
    error = float((outputs - new_outputs).abs().max()) / (
        float(outputs.square().mean().sqrt()) or 1.0
    )
    if not error <= tolerance:
        _fail(
            f"outputs of {_name(now)} differ by {error:.3g} of their root mean square, more than"
            f" {tolerance:g}"
        )
    return error


def _compare_blocks(
    name: str, groups: int, factor: int, old: NDArray[np.float64], new: NDArray[np.float64]
) -> None:
    """Each output channel must keep its weights in its old group, and have zeros elsewhere."""
    width = old.shape[1]
    place = np.arange(len(old)) // (len(old) // groups) % factor
    for position in range(factor):
        rows = place == position
        block = new[rows, position * width : (position + 1) * width]
        if not np.array_equal(block, old[rows]):
            _fail(f"{name} has different weights")
        if np.count_nonzero(new[rows]) != np.count_nonzero(block):
            _fail(f"{name} has nonzero weights between groups that were separate")


def _run(conv: onnx.NodeProto, groups: int, weight: NDArray[np.float64]) -> torch.Tensor:
    """Run ``conv`` on a random input that depends only on the channels and the kernel."""
    options, rank = _options(conv), weight.ndim - 2
    strides, dilations = (options.get(name, [1] * rank) for name in ("strides", "dilations"))
    pads = options.get("pads", [0] * 2 * rank)
    reach = [
        d * (k - 1) + 1 + s * (_OUTPUTS - 1)
        for k, d, s in zip(weight.shape[2:], dilations, strides, strict=True)
    ]
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, groups * weight.shape[1], *reach, generator=random, dtype=torch.float64)
    # PyTorch's pad takes the last dimension first, as a pair of ends.
    sides = [pads[side * rank + dim] for dim in reversed(range(rank)) for side in (0, 1)]
    padded = torch.nn.functional.pad(pixels, sides)
    return _CONVOLUTIONS[rank](
        padded, torch.from_numpy(weight), None, strides, 0, dilations, groups
    )


def _options(node: onnx.NodeProto) -> dict[str, Any]:
    return {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute
    }
