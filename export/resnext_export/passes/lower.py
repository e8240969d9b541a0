"""Lower a float32 graph to half precision: every weight converted, every type written out.

The float32 graph is lowered; the network is not traced again. Traced in bfloat16, the exporter
leaves the weights that it folded batch norms into in float32, which ONNX and TensorRT reject;
traced in float16, it folds in float16 and rounds twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.errors import BadArtifact, GateFailed, UsageError
from resnext.precision import PRECISIONS

from .base import PassResult
from .graph import HALF_TYPES, WEIGHTED, inferred, kept_nodes
from .initializers import Constants

HalfPrecision: TypeAlias = Literal["fp16", "bf16"]
#: Operators that opsets up to 22 redefine only to accept more types; a test compares the
#: definitions. (MaxPool's text also states what runtimes do anyway with a window that starts in the
#: padding if ceil_mode is set.)
_ONLY_MORE_TYPES = frozenset(
    (
        "Cast",
        "Constant",
        "Conv",
        "Flatten",
        "GlobalAveragePool",
        "Identity",
        "MaxPool",
        "Reshape",
        "Shape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)
_FLOATS = frozenset((TensorProto.FLOAT, TensorProto.DOUBLE, *HALF_TYPES.values()))


@dataclass(frozen=True)
class Lower:
    """Compute in half precision from the first weighted node on, weights and biases included.

    Nodes before the first weighted node stay in float32: they are baked-in preprocessing. One Cast
    leads from there, or from the input, into the network, and one from the network to the output.
    They are named after the tensor that they cast: ``input.to_bf16`` (``permute.to_bf16`` in a
    graph that takes pixels) and ``logits.to_fp32``. Weights are rounded to nearest, ties to even.
    Node names, metadata and the symbolic batch are kept; shapes and types are inferred again.

    Layers in ``keep`` stay as they are, weights included, and so do the nodes that follow them
    (`kept_nodes`). A Cast leads into each such island (``relu.to_fp32``) and out of it
    (``relu_1.to_fp16``); within it nothing is rounded.

    Attributes:
        precision: the type to compute in. bf16 raises the opset to 22.
        native_io: make float32 inputs and outputs half precision, too, without a Cast.
        keep: names of weighted nodes that compute in float32.
    """

    precision: HalfPrecision
    native_io: bool = False
    keep: Collection[str] = ()

    def requires(self, proto: onnx.ModelProto) -> None:
        """Refuse a graph with parts that cannot be lowered.

        Raises:
            UsageError: a subgraph, a quantized node, or one of another operator domain; or ``keep``
                names an unknown node.
            BadArtifact: the weights are in another file.
        """
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer):
            raise BadArtifact(
                "the weights are in another file", hint="read them in first (onnx.load does)"
            )
        kept_nodes(proto.graph, self.keep)  # refuses unknown names
        for node in proto.graph.node:
            nested = any(a.HasField("g") or a.graphs for a in node.attribute)
            quantized = node.op_type.endswith("QuantizeLinear")
            if nested or quantized or node.domain not in ("", "ai.onnx"):
                raise UsageError(
                    f"cannot lower {node.name or node.op_type} ({node.op_type}): only plain float32"
                    " graphs",
                    hint="lower first, then quantize",
                )

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Lower a copy.

        Raises:
            GateFailed: ``precision`` cannot hold a weight; names the layer.
            UsageError: the graph is not float32, or its opset cannot be raised.
            BadArtifact: its types or shapes are inconsistent.
        """
        precision, half = self.precision, HALF_TYPES[self.precision]
        lowered = onnx.ModelProto()
        lowered.CopyFrom(proto)
        if precision == "bf16":
            _raise_opset(lowered, PRECISIONS["bf16"].least_opset)
        floats = _float32_tensors(lowered)
        graph = lowered.graph
        constants = Constants(graph)
        native = {value.name for value in graph.input if self.native_io and value.name in floats}
        inside = set(native)
        network = _network(graph, inside, floats, kept_nodes(graph, self.keep))
        _lower_constants(graph, network, floats, constants, precision)
        nodes = _with_casts(graph, network, floats, inside, constants, precision)
        for value in graph.input:
            if value.name in native:
                value.type.tensor_type.elem_type = half
        value_info = {value.name: value for value in proto.graph.value_info}
        for value in graph.output:
            if self.native_io and value.name in floats:
                value.type.tensor_type.elem_type = half
            if (value.name in inside) != self.native_io and value.name in floats:
                # Of a kept classifier the output is float32, and may have to become half.
                kind = "fp32" if self.native_io else precision
                inner = constants.fresh(f"{value.name}_{kind}")
                value_info[inner] = value
                for node in nodes:
                    _rename(node, value.name, inner)
                to, data_type = (precision, half) if self.native_io else ("fp32", TensorProto.FLOAT)
                nodes.append(_cast(inner, value.name, f"{value.name}.to_{to}", data_type))
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        check_lowered(lowered, precision, self.keep)  # names the layer, which inference would not
        for value in inferred(lowered).graph.value_info:
            _keep_symbols(value, value_info.get(value.name, value))
            graph.value_info.append(value)
        changed = (
            node.name
            for node in graph.node
            if node.op_type in WEIGHTED and node.name not in self.keep
        )
        return PassResult(lowered, tuple(changed))

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:  # noqa: ARG002  # the outcome alone tells
        """See `check_lowered`."""
        check_lowered(after, self.precision, self.keep)
        return 0.0


def check_lowered(
    proto: onnx.ModelProto, precision: HalfPrecision, keep: Collection[str] = ()
) -> None:
    """Check that every constant used in arithmetic, from the first weighted node on, is of
    ``precision``, and float32 in the nodes ``keep``.

    Raises:
        GateFailed: one is not; names node and constant.
    """
    constants = Constants(proto.graph)
    inside: set[str] = set()
    for node in proto.graph.node:
        if node.op_type not in WEIGHTED and inside.isdisjoint(node.input):
            continue
        inside.update(node.output)
        wanted = TensorProto.FLOAT if node.name in keep else HALF_TYPES[precision]
        for name in node.input:
            if name in constants and (dtype := constants[name].data_type) in _FLOATS - {wanted}:
                raise GateFailed(
                    f"{node.name}: {name!r} is {helper.tensor_dtype_to_np_dtype(dtype)} in a"
                    f" {precision} graph{', where it is kept in float32' * (node.name in keep)}",
                    hint="lower the whole float32 graph again",
                )


def _float32_tensors(proto: onnx.ModelProto) -> set[str]:
    """Names of the float32 tensors; raises UsageError if any are of another floating-point type."""
    graph = inferred(proto).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    if other := [name for name, dtype in types.items() if dtype in _FLOATS - {TensorProto.FLOAT}]:
        dtype = helper.tensor_dtype_to_np_dtype(types[other[0]])
        raise UsageError(f"tensor {other[0]!r} is {dtype}", hint="give the float32 graph")
    return {name for name, dtype in types.items() if dtype == TensorProto.FLOAT}


def _network(
    graph: onnx.GraphProto, inside: set[str], floats: set[str], kept: set[tuple[str, ...]]
) -> set[tuple[str, ...]]:
    """Outputs of each node to lower; adds the tensors that become half precision to ``inside``."""
    network, reached = set(), set(inside)
    for node in graph.node:
        if node.op_type in WEIGHTED or not reached.isdisjoint(node.input):
            reached |= floats & set(node.output)
            if tuple(node.output) not in kept:
                network.add(tuple(node.output))
                inside |= floats & set(node.output)
    return network


def _with_casts(
    graph: onnx.GraphProto,
    network: set[tuple[str, ...]],
    floats: set[str],
    inside: set[str],
    constants: Constants,
    precision: HalfPrecision,
) -> list[onnx.NodeProto]:
    """The nodes, with a Cast before the first reader of each tensor that enters the network, or an
    island in it, in the other type.
    """
    nodes: list[onnx.NodeProto] = []
    casts: dict[str, str] = {}
    for node in graph.node:
        low = tuple(node.output) in network
        to = precision if low else "fp32"
        for slot, name in enumerate(node.input):
            if name in floats and (name in inside) != low and name not in constants:
                if name not in casts:
                    casts[name] = constants.fresh(f"{name}_{to}")
                    data_type = HALF_TYPES[precision] if low else TensorProto.FLOAT
                    nodes.append(_cast(name, casts[name], f"{name}.to_{to}", data_type))
                constants.redirect(node, slot, casts[name])
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and node.output[0] in inside:
                attribute.i = HALF_TYPES[precision]
        nodes.append(node)
    return nodes


def _lower_constants(
    graph: onnx.GraphProto,
    network: set[tuple[str, ...]],
    floats: set[str],
    constants: Constants,
    precision: HalfPrecision,
) -> None:
    outside = {
        name for node in graph.node if tuple(node.output) not in network for name in node.input
    }
    outside |= {value.name for value in graph.output}
    new: dict[str, str] = {}
    for node in graph.node:
        for slot, name in enumerate(node.input if tuple(node.output) in network else ()):
            if name not in floats or name not in constants:
                continue
            if name not in new:
                weight = node.op_type in WEIGHTED and slot == 1
                array = rounded(
                    numpy_helper.to_array(constants[name]),
                    precision,
                    node.name or name,
                    name,
                    weight=weight,
                )
                new[name] = constants.fresh(f"{name}_{precision}") if name in outside else name
                tensor = graph.initializer.add() if name in outside else constants[name]
                tensor.CopyFrom(numpy_helper.from_array(array, new[name]))
            constants.redirect(node, slot, new[name])


def rounded(
    array: NDArray[np.float32], precision: HalfPrecision, layer: str, name: str, *, weight: bool
) -> NDArray[Any]:
    """A constant in half precision.

    Args:
        array: the float32 constant.
        precision: the type.
        layer: its node, for the message.
        name: its own, for the message.
        weight: whether it is a weight, which must keep what small values it has; not a bias.

    Raises:
        GateFailed: ``precision`` cannot hold it.
    """
    largest = float(np.abs(array).max(initial=0))
    limit = PRECISIONS[precision]
    with np.errstate(over="ignore", under="ignore"):
        lowered: NDArray[Any] = array.astype(helper.tensor_dtype_to_np_dtype(HALF_TYPES[precision]))
    if np.isfinite(largest) and not np.isfinite(lowered.astype(np.float32)).all():
        raise GateFailed(
            f"{layer}: the largest value of {name!r}, {largest:.6g}, is beyond {precision}'s"
            f" {limit.largest:.6g}",
            hint=f"use {' or '.join(limit.wider)}, or `keep_fp32` {layer}",
        )
    # A few tiny weights beside large ones do no harm (a channel that training gave up). It is too
    # much if fp16, with three more bits of mantissa, keeps less of the layer than bf16 would.
    small = np.abs(array) < np.finfo(np.float16).smallest_normal
    if weight and precision == "fp16" and small.any():
        bfloat = array.astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
        if _squared_error(array, lowered) > _squared_error(array, bfloat):
            share = float((small & (array != 0)).sum() / max(1, np.count_nonzero(array)))
            raise GateFailed(
                f"{layer}: {share:.0%} of {name!r} turns to zero or subnormal in fp16 (its largest"
                f" value is {largest:.3g})",
                hint=f"use bf16 or fp32, or `keep_fp32` {layer}",
            )
    return lowered


def _squared_error(array: NDArray[np.float32], rounded: NDArray[Any]) -> float:
    return float(np.square(array.astype(np.float64) - rounded.astype(np.float64)).sum())


def _raise_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Raise the model's opset to at least ``opset``; onnx's version converter would drop node
    metadata.
    """
    (entry,) = (entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if entry.version >= opset:
        return
    for node in proto.graph.node:
        before, after = (
            onnx.defs.get_schema(node.op_type, version) for version in (entry.version, opset)
        )
        if before.since_version != after.since_version and node.op_type not in _ONLY_MORE_TYPES:
            raise UsageError(
                f"cannot raise opset {entry.version} to {opset}, which bf16 needs: {node.op_type}"
                " has changed in between",
                hint=f"export with opset {opset}",
            )
    entry.version = opset
    proto.ir_version = max(
        proto.ir_version, helper.find_min_ir_version_for(list(proto.opset_import))
    )


def _keep_symbols(value: onnx.ValueInfoProto, before: onnx.ValueInfoProto) -> None:
    """Restore the symbols of dynamic dimensions: inference loses the batch at a Reshape."""
    dims = zip(value.type.tensor_type.shape.dim, before.type.tensor_type.shape.dim, strict=False)
    for dim, old in dims:
        if not dim.HasField("dim_value") and old.dim_param:
            dim.dim_param = old.dim_param


def _cast(source: str, target: str, name: str, data_type: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name, to=data_type)


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    for names in (node.input, node.output):
        renamed: Sequence[str] = [new if name == old else name for name in names]
        del names[:]
        names.extend(renamed)
