"""Let chosen convolutions of a half-precision graph compute in float32.

For builders that have no half-precision kernel for a convolution. A strongly typed network computes
what the graph says, so each island is written into it: Cast to float32, Conv with float32 weights,
Cast back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resnext.errors import BadArtifact, GateFailed, UsageError

from .base import PassResult
from .graph import HALF_TYPES, convolutions
from .initializers import Constants

#: Element types around an island, and the suffix of the Cast back to each.
_HALVES: Mapping[int, str] = {data_type: name for name, data_type in HALF_TYPES.items()}


@dataclass(frozen=True)
class InsertFp32Islands:
    """Compute some convolutions in float32, between a Cast to it and a Cast back.

    The Casts of ``layer1.0.conv2`` are ``layer1.0.conv2.to_fp32`` and ``layer1.0.conv2.to_fp16``
    (or ``.to_bf16``). The second writes the tensor that the Conv wrote, so readers stay as they
    are; the Conv's own output gets the suffix ``_fp32``.

    Attributes:
        names: Convs whose weight is a float16 or bfloat16 constant.
    """

    names: Collection[str]

    def requires(self, proto: onnx.ModelProto) -> None:
        """Check the named convolutions.

        Raises:
            UsageError: no Conv has one of the names, or a Conv has another element type.
            BadArtifact: the weight or bias of a Conv is not a constant of this file.
        """
        constants = Constants(proto.graph)
        for conv in convolutions(proto.graph, self.names):
            for name in filter(None, conv.input[1:]):
                if name not in constants:
                    raise BadArtifact(
                        f"cannot compute {conv.name} in float32: {name!r} is not a constant of"
                        " this file",
                        hint="export weights and biases as initializers",
                    )
            data_type = constants[conv.input[1]].data_type
            if data_type not in _HALVES:
                raise UsageError(
                    f"{conv.name} computes in {TensorProto.DataType.Name(data_type).lower()}; "
                    "a float32 island is for a convolution in float16 or bfloat16"
                )

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Insert the islands."""
        islands = onnx.ModelProto()
        islands.CopyFrom(proto)
        graph = islands.graph
        constants = Constants(graph)
        chosen = {tuple(conv.output) for conv in convolutions(graph, self.names)}
        changed, nodes = [], list[onnx.NodeProto]()
        for node in graph.node:
            if tuple(node.output) in chosen:
                nodes += _island(node, constants)
                changed.append(node.name)
            else:
                nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        return PassResult(islands, tuple(changed))

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """Each named Conv must have a float32 weight and bias and lie between two Casts, and every
        other node must be as before.

        Raises:
            GateFailed: names the convolution or node.
        """
        constants = Constants(after.graph)
        writers = {name: node for node in after.graph.node for name in node.output}
        for conv in convolutions(after.graph, self.names):
            types = {constants[name].data_type for name in filter(None, conv.input[1:])}
            feed = writers.get(conv.input[0])
            readers = [node for node in after.graph.node if conv.output[0] in node.input]
            if (
                types != {TensorProto.FLOAT}
                or feed is None
                or [feed.op_type, *(node.op_type for node in readers)] != ["Cast", "Cast"]
            ):
                raise GateFailed(f"{conv.name} does not compute in float32 between two Casts")
        names = set(self.names)
        untouched = [node for node in before.graph.node if node.name not in names]
        outputs = {tuple(node.output) for node in untouched}
        rest = [node for node in after.graph.node if tuple(node.output) in outputs]
        if untouched != rest:
            raise GateFailed("inserting float32 islands changed other nodes")
        return 0.0


def _island(conv: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto]:
    data_type = constants[conv.input[1]].data_type
    for slot, name in enumerate(conv.input):
        if slot and name:
            constants.replace(
                conv, slot, numpy_helper.to_array(constants[name]).astype(np.float32), "fp32"
            )
    source, target = conv.input[0], conv.output[0]
    conv.input[0] = constants.fresh(f"{conv.name}.input_fp32")
    conv.output[0] = constants.fresh(f"{target}_fp32")
    return [
        helper.make_node(
            "Cast", [source], [conv.input[0]], f"{conv.name}.to_fp32", to=TensorProto.FLOAT
        ),
        conv,
        helper.make_node(
            "Cast",
            [conv.output[0]],
            [target],
            f"{conv.name}.to_{_HALVES[data_type]}",
            to=data_type,
        ),
    ]
