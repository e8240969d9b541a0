"""An ONNX graph with float32 islands: chosen convolutions of a half-precision graph compute in
float32.

For builders that have no half-precision kernel for a convolution. A strongly typed network computes
as the graph says, so each island is written into it: Cast to float32, Conv with float32 weights,
Cast back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resnext.errors import BadArtifact, UsageError

from .graph import convolutions
from .initializers import Constants

#: Element types that an island may lie in, and the suffix of the Cast back to each.
_HALVES: Mapping[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


def islands_from_onnx(proto: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Let the Convs that ``names`` names compute in float32, between a Cast to it and a Cast back.

    The Casts of ``layer1.0.conv2`` are ``layer1.0.conv2.to_fp32`` and ``layer1.0.conv2.to_fp16``
    (or ``.to_bf16``). The second gives the tensor that the Conv gave, so that whatever reads it
    stays as it is; the Conv's own output gets the suffix ``_fp32``.

    Args:
        proto: the model, weights inside; left as it is.
        names: Convs whose weight is a float16 or bfloat16 constant.

    Returns:
        A copy that shares no memory with ``proto``.

    Raises:
        UsageError: a name that no Conv has, or a Conv of another element type.
        BadArtifact: a Conv's weight or bias is no constant of this file.
    """
    islands = onnx.ModelProto()
    islands.CopyFrom(proto)
    graph = islands.graph
    constants = Constants(graph)
    chosen = {tuple(conv.output) for conv in convolutions(graph, names)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _island(node, constants) if tuple(node.output) in chosen else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    return islands


def _island(conv: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto]:
    for name in filter(None, conv.input[1:]):
        if name not in constants:
            raise BadArtifact(
                f"cannot compute {conv.name} in float32: {name!r} is no constant of this file; "
                "export weights and biases as initializers"
            )
    kind = constants[conv.input[1]].data_type
    if kind not in _HALVES:
        raise UsageError(
            f"{conv.name} computes in {TensorProto.DataType.Name(kind).lower()}; "
            "a float32 island is for a convolution in float16 or bfloat16"
        )
    for slot, name in enumerate(conv.input):
        if slot and name:
            constants.replace(
                conv, slot, numpy_helper.to_array(constants[name]).astype(np.float32), "fp32"
            )
    given, given_back = conv.input[0], conv.output[0]
    conv.input[0] = constants.fresh(f"{conv.name}.input_fp32")
    conv.output[0] = constants.fresh(f"{given_back}_fp32")
    return [
        helper.make_node(
            "Cast", [given], [conv.input[0]], f"{conv.name}.to_fp32", to=TensorProto.FLOAT
        ),
        conv,
        helper.make_node(
            "Cast", [conv.output[0]], [given_back], f"{conv.name}.to_{_HALVES[kind]}", to=kind
        ),
    ]
