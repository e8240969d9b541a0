"""The largest activation of each channel, for moving ranges between channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.errors import BadInput, SessionFailed, first_line
from resnext.machine.faults import environment_fault
from resnext.progress import track

from .collect import read_graph
from .images import equal_batches
from .watch import WatchedSession, with_sums

_PREFIX = "resnext.largest."


def channel_maxima(
    model_path: Path, images: Iterable[NDArray[Any]], tensors: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Run ``images`` through a float32 graph on ONNX Runtime's CPU provider.

    Args:
        model_path: an ONNX file with weights inside and one input, fp32 opset 18 or later.
        images: batches as the input takes them.
        tensors: names of tensors of N x C x H x W.

    Returns:
        The largest value of each channel over all images and positions (C), by tensor.

    Raises:
        BadInput: as `read_graph` and `equal_batches`, no images, or a tensor is not finite.
        SessionFailed: ONNX Runtime refuses the graph.
    """
    if not tensors:
        return {}
    _, proto = read_graph(model_path)
    watched = with_sums(proto)
    axes = numpy_helper.from_array(np.array([0, 2, 3]), f"{_PREFIX}axes")
    watched.graph.initializer.append(axes)
    for name in tensors:
        node = helper.make_node("ReduceMax", [name, axes.name], [_PREFIX + name], keepdims=0)
        watched.graph.node.append(node)
        watched.graph.output.append(
            helper.make_tensor_value_info(_PREFIX + name, TensorProto.FLOAT, [None])
        )
    session = WatchedSession(_session(watched), proto, histograms=False)
    names = [output.name for output in session.get_outputs()]
    largest: dict[str, NDArray[np.float32]] = {}
    batches = equal_batches(images, proto.graph.input[0], model_path)
    for batch in track(batches, "measuring channels"):
        found = dict(zip(names, session.run(None, {proto.graph.input[0].name: batch}), strict=True))
        session.first += len(batch)
        for name in tensors:
            values = found[_PREFIX + name]
            largest[name] = np.maximum(values, largest[name]) if name in largest else values
    if not largest:
        raise BadInput(f"no images to measure {model_path} with")
    return largest


def _session(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # ONNX Runtime's errors have no common base class
        raise environment_fault(exc) or SessionFailed(
            f"ONNX Runtime refuses the graph: {first_line(exc)}"
        ) from exc
