"""Evaluates an ONNX artifact node by node, as ONNX defines it.

ONNX Runtime's CPU provider does the arithmetic, with all graph optimizations off: these are where
runtimes differ, and where ONNX Runtime itself computes wrong logits for float8. The provider has no
bfloat16 convolutions, so bfloat16 graphs are computed in float32 and rounded to bfloat16 after each
node, like on hardware that accumulates in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_graph
from resnext.errors import BadArtifact, UsageError, first_line
from resnext.machine.faults import environment_fault
from resnext.runtimes.registry import SessionOptions

if TYPE_CHECKING:
    import onnx

#: Images at a time, if the batch is open.
_ROWS = 8


def emulated_logits(artifact: Artifact, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Logits of an ONNX artifact.

    Args:
        artifact: an ONNX artifact.
        inputs: N x ..., in the input's shape: uint8 pixels, or float32 images, which are rounded
            to the input's element type.

    Returns:
        N x classes.

    Raises:
        UsageError: it is not an ONNX artifact.
        BadArtifact: ONNX Runtime cannot read it.
    """
    manifest = artifact.manifest
    if manifest.kind != "onnx":
        raise UsageError(
            f"only ONNX artifacts can be computed node by node; {artifact.path} is of kind"
            f" {manifest.kind}"
        )
    (spec,) = manifest.inputs
    return node_by_node(
        onnx_graph(artifact), inputs if spec.dtype == "bfloat16" else spec.cast(inputs)
    )


def node_by_node(proto: onnx.ModelProto, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """The output, N x classes, of a model with one input of type float32, float16, bfloat16 or
    uint8.

    Args:
        proto: the model, which is not changed.
        inputs: N x ..., in the input's type, or float32 if that is bfloat16.

    Raises:
        BadArtifact: ONNX Runtime cannot read it.
    """
    return Evaluator(proto)(inputs)


class Evaluator:
    """A model with one input, ready to be evaluated.

    Args:
        proto: the model, which is not changed.
        options: threads.

    Raises:
        BadArtifact: ONNX Runtime cannot read it.
    """

    def __init__(self, proto: onnx.ModelProto, options: SessionOptions | None = None) -> None:
        self._threads = (options or SessionOptions()).thread_count
        self._data = widened(proto).SerializeToString()
        self._session = self.open(self.options())

    def options(self) -> ort.SessionOptions:
        """ONNX Runtime's options, with all graph optimizations off."""
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        return options

    def open(self, options: ort.SessionOptions) -> ort.InferenceSession:
        """An ``onnxruntime.InferenceSession`` of the model."""
        try:
            return ort.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's errors have no common base
            raise environment_fault(exc) or BadArtifact(
                f"ONNX Runtime cannot load the graph: {first_line(exc)}"
            ) from exc

    def __call__(self, inputs: NDArray[Any], rows: int = _ROWS) -> NDArray[np.float32]:
        """The output, N x classes, for any number of inputs; a fixed batch is padded and cut.

        Args:
            inputs: N x ..., in the input's type, or float32 if that is bfloat16.
            rows: inputs at a time, if the batch is open.
        """
        (spec,) = self._session.get_inputs()
        fixed = spec.shape[0] if isinstance(spec.shape[0], int) else None
        parts = []
        for start in range(0, len(inputs), fixed or rows):
            some = inputs[start : start + (fixed or rows)]
            full = some if fixed is None else some[np.arange(fixed) % len(some)]
            parts.append(self._session.run(None, {spec.name: full})[0][: len(some)])
        joined: NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
        return joined


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` with float32 instead of bfloat16, and each result rounded to bfloat16.

    Args:
        proto: a model with the types of its tensors; it is not changed.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    graph = wide.graph
    kinds = {
        value.name: value.type.tensor_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    half = {name for name, kind in kinds.items() if kind.elem_type == TensorProto.BFLOAT16}
    for kind in kinds.values():
        if kind.elem_type == TensorProto.BFLOAT16:
            kind.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype(np.float32), tensor.name
                )
            )
    nodes = []
    for value in graph.input:
        if value.name in half:  # a caller's float32 may be more precise than bfloat16
            nodes += _rounded(value.name, f"{value.name}/given")
            value.name = f"{value.name}/given"
    for node in graph.node:
        for attribute in node.attribute:
            if (
                node.op_type == "Cast"
                and attribute.name == "to"
                and attribute.i == TensorProto.BFLOAT16
            ):
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in half:
                node.output[index] = f"{name}/exact"
                nodes += _rounded(name, f"{name}/exact")
    del graph.node[:]
    graph.node.extend(nodes)
    return wide


def _rounded(name: str, exact: str) -> list[Any]:
    from onnx import TensorProto, helper

    return [
        helper.make_node(
            "Cast", [exact], [f"{name}/bf16"], f"{name}.rounded", to=TensorProto.BFLOAT16
        ),
        helper.make_node("Cast", [f"{name}/bf16"], [name], f"{name}.widened", to=TensorProto.FLOAT),
    ]
