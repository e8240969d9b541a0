"""A half-precision ONNX graph from a float32 one: every weight converted, every type written into
the graph.

The float32 graph is lowered, not the network traced again: traced in bfloat16, the exporter leaves
    the weights that it
folded batch norms into in float32, which ONNX and TensorRT reject; in float16 it folds in float16
and rounds twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.errors import BadArtifact, GateFailed, UsageError
from resnext.precision import PRECISIONS

from .graph import WEIGHTED, inferred
from .initializers import Constants

HalfPrecision: TypeAlias = Literal["fp16", "bf16"]
#: Largest finite value of each type.
#: The first opset whose Conv, pooling and other operators all take bfloat16.
BF16_OPSET = 22
#: Operators that opsets up to 22 define anew only to take more types. (MaxPool's text also says
#: what runtimes do anyway with a window that starts in the padding, where ceil_mode is set.) A test
#: compares the definitions.
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
_HALVES: Mapping[HalfPrecision, int] = MappingProxyType(
    {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
)
_FLOATS = frozenset((TensorProto.FLOAT, TensorProto.DOUBLE, *_HALVES.values()))


def lowered_from_onnx(
    proto: onnx.ModelProto, precision: HalfPrecision, *, native_io: bool = False
) -> onnx.ModelProto:
    """Let the network compute in ``precision``: all from the first weighted node on, with its
    weights and biases.

    What stands before the first weighted node stays in float32: that is preprocessing that was
        baked in. A Cast leads
    from there, or from the input, into the network, and another one from the network to the output.
    They are named after the tensor that they cast: ``input.to_bf16`` (``permute.to_bf16`` in a
    graph that takes pixels) and ``logits.to_fp32``. Weights are rounded to the nearest, ties to
    even.

    Args:
        proto: a float32 model, weights inside; left as it is.
        precision: what to compute in. bf16 raises the opset to 22.
        native_io: let float32 inputs and outputs be of ``precision`` themselves, without a Cast.

    Returns:
        A copy that shares no memory with ``proto``. Node names, metadata and the symbolic batch are
        as they were; shapes and types of all tensors are inferred anew.

    Raises:
        GateFailed: a weight that ``precision`` cannot hold; names the layer.
        UsageError: the graph is not of float32, or holds what cannot be lowered.
        BadArtifact: its types do not hold together, or its weights lie in another file.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(proto)
    if precision == "bf16":
        _raise_opset(lowered, BF16_OPSET)
    floats = _float_tensors(lowered)
    graph, half = lowered.graph, _HALVES[precision]
    constants = Constants(graph)
    inside = {value.name for value in graph.input if native_io and value.name in floats}
    network = _network(graph, inside, floats)
    _lower_constants(graph, network, floats, constants, precision)
    nodes: list[onnx.NodeProto] = []
    cast: dict[str, str] = {}
    for node in graph.node:
        for slot, name in enumerate(node.input if tuple(node.output) in network else ()):
            if name in floats and name not in inside and name not in constants:
                if name not in cast:
                    cast[name] = constants.fresh(f"{name}_{precision}")
                    nodes.append(_cast(name, cast[name], f"{name}.to_{precision}", half))
                constants.redirect(node, slot, cast[name])
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and node.output[0] in inside:
                attribute.i = half
        nodes.append(node)
    for value in graph.input if native_io else ():
        if value.name in inside:
            value.type.tensor_type.elem_type = half
    noted = {value.name: value for value in proto.graph.value_info}
    for value in graph.output:
        if value.name in inside and native_io:
            value.type.tensor_type.elem_type = half
        elif value.name in inside:
            within = constants.fresh(f"{value.name}_{precision}")
            noted[within] = value
            for node in nodes:
                _rename(node, value.name, within)
            nodes.append(_cast(within, value.name, f"{value.name}.to_fp32", TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    check_lowered(lowered, precision)
    for value in inferred(lowered).graph.value_info:
        _keep_symbols(value, noted.get(value.name, value))
        graph.value_info.append(value)
    return lowered


def check_lowered(proto: onnx.ModelProto, precision: HalfPrecision) -> None:
    """Every constant that enters arithmetic, from the first weighted node on, must be of
    ``precision``.

    Raises:
        GateFailed: one is not; names node and constant.
    """
    constants, half = Constants(proto.graph), _HALVES[precision]
    inside: set[str] = set()
    for node in proto.graph.node:
        if node.op_type not in WEIGHTED and inside.isdisjoint(node.input):
            continue
        inside.update(node.output)
        for name in node.input:
            if name in constants and (kind := constants[name].data_type) in _FLOATS - {half}:
                raise GateFailed(
                    f"{node.name}: {name!r} is {helper.tensor_dtype_to_np_dtype(kind)} in a graph"
                    f" of {precision}; lower the whole float32 graph anew"
                )


def _float_tensors(proto: onnx.ModelProto) -> set[str]:
    """Names of the float32 tensors. Raises where the graph has parts that cannot be lowered."""
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        raise BadArtifact("the weights lie in another file; read them in first (onnx.load does)")
    for node in proto.graph.node:
        nested = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        if nested or node.domain not in ("", "ai.onnx") or node.op_type.endswith("QuantizeLinear"):
            raise UsageError(
                f"cannot lower {node.name or node.op_type} ({node.op_type}): only plain float32"
                " graphs; lower first, then quantize"
            )
    graph = inferred(proto).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    if other := [name for name, kind in kinds.items() if kind in _FLOATS - {TensorProto.FLOAT}]:
        kind = helper.tensor_dtype_to_np_dtype(kinds[other[0]])
        raise UsageError(f"tensor {other[0]!r} is {kind}; give the float32 graph")
    return {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}


def _network(graph: onnx.GraphProto, inside: set[str], floats: set[str]) -> set[tuple[str, ...]]:
    """Outputs of each node to lower; adds the tensors that will be of half precision to
    ``inside``.
    """
    found = set()
    for node in graph.node:
        if node.op_type in WEIGHTED or not inside.isdisjoint(node.input):
            found.add(tuple(node.output))
            inside |= floats & set(node.output)
    return found


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
                array = _rounded(
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


def _rounded(
    array: NDArray[np.float32], precision: HalfPrecision, layer: str, name: str, *, weight: bool
) -> NDArray[Any]:
    largest = float(np.abs(array).max(initial=0))
    with np.errstate(over="ignore", under="ignore"):
        lowered: NDArray[Any] = array.astype(helper.tensor_dtype_to_np_dtype(_HALVES[precision]))
    if np.isfinite(largest) and not np.isfinite(lowered.astype(np.float32)).all():
        raise GateFailed(
            f"{layer}: the largest value of {name!r}, {largest:.6g}, is beyond {precision}'s"
            f" {PRECISIONS[precision].largest:.6g}; use {' or '.join(PRECISIONS[precision].wider)}"
        )
    # A few tiny weights beside large ones do no harm (a channel that training gave up). It is too
    # much where fp16, with three more bits of mantissa, keeps less of the layer than bf16 would.
    small = np.abs(array) < np.finfo(np.float16).smallest_normal
    if weight and precision == "fp16" and small.any():
        bfloat = array.astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
        if _lost(array, lowered) > _lost(array, bfloat):
            share = float((small & (array != 0)).sum() / max(1, np.count_nonzero(array)))
            raise GateFailed(
                f"{layer}: {share:.0%} of {name!r} turns to zero or subnormal in fp16 (its largest"
                f" value is {largest:.3g}); use bf16 or fp32"
            )
    return lowered


def _lost(array: NDArray[np.float32], rounded: NDArray[Any]) -> float:
    return float(np.square(array.astype(np.float64) - rounded.astype(np.float64)).sum())


def _raise_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Let the model be of ``opset``, unless it is of a later one. onnx's version converter would
    drop node metadata.
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
                f" is another there; export with opset {opset}"
            )
    entry.version = opset
    proto.ir_version = max(
        proto.ir_version, helper.find_min_ir_version_for(list(proto.opset_import))
    )


def _keep_symbols(value: onnx.ValueInfoProto, noted: onnx.ValueInfoProto) -> None:
    """Call open dimensions of ``value`` what ``noted`` calls them: inference loses sight of the
    batch at a Reshape.
    """
    dims = zip(value.type.tensor_type.shape.dim, noted.type.tensor_type.shape.dim, strict=False)
    for dim, before in dims:
        if not dim.HasField("dim_value") and before.dim_param:
            dim.dim_param = before.dim_param


def _cast(given: str, output: str, name: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [output], name, to=kind)


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    for names in (node.input, node.output):
        renamed: Sequence[str] = [new if name == old else name for name in names]
        del names[:]
        names.extend(renamed)
