"""Largest activations of channels, and means of tensors: for equalization and corrected biases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
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

_PREFIX = "resnext.reduced."


def channel_maxima(
    model_path: Path, images: Iterable[NDArray[Any]], tensors: Collection[str]
) -> dict[str, NDArray[np.float32]]:
    """The largest value of each channel over all images and positions (C), by tensor.

    Args:
        model_path: an ONNX file with weights inside and one input, opset 18 or later.
        images: batches as the input takes them.
        tensors: names of tensors of N x C x H x W.

    Raises:
        BadInput: as `read_graph` and `equal_batches`, no images, or a tensor is not finite.
        SessionFailed: ONNX Runtime refuses the graph.
    """
    largest: dict[str, NDArray[np.float32]] = {}
    for found in _reduced(model_path, images, tensors, "ReduceMax", (2, 3)):
        for name, values in found.items():
            most = values.max(axis=0)
            largest[name] = np.maximum(most, largest[name]) if name in largest else most
    return largest


def tensor_means(
    model_path: Path, images: Iterable[NDArray[Any]], tensors: Collection[str]
) -> dict[str, float]:
    """The mean of each tensor over all images, channels and positions.

    Args:
        model_path: as for `channel_maxima`.
        images: batches as the input takes them.
        tensors: names of tensors of N x C x H x W.

    Raises:
        ResnextError: as for `channel_maxima`.
    """
    means: dict[str, list[NDArray[np.float32]]] = {}
    for found in _reduced(model_path, images, tensors, "ReduceMean", (1, 2, 3)):
        for name, values in found.items():
            means.setdefault(name, []).append(values)
    return {
        name: float(np.concatenate(values).mean(dtype=np.float64)) for name, values in means.items()
    }


def _reduced(
    model_path: Path,
    images: Iterable[NDArray[Any]],
    tensors: Collection[str],
    operator: str,
    over: tuple[int, ...],
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Each tensor, reduced over some axes of each image, for one batch after the other."""
    _, proto = read_graph(model_path)
    watched = with_sums(proto)
    axes = numpy_helper.from_array(np.array(over), f"{_PREFIX}axes")
    watched.graph.initializer.append(axes)
    for name in tensors:
        node = helper.make_node(operator, [name, axes.name], [_PREFIX + name], keepdims=0)
        watched.graph.node.append(node)
        shape = [None] * (4 - len(over))
        watched.graph.output.append(
            helper.make_tensor_value_info(_PREFIX + name, TensorProto.FLOAT, shape)
        )
    session = WatchedSession(_session(watched), proto, histograms=False)
    names = [output.name for output in session.get_outputs()]
    for batch in track(
        equal_batches(images, proto.graph.input[0], model_path), "measuring channels"
    ):
        found = dict(zip(names, session.run(None, {proto.graph.input[0].name: batch}), strict=True))
        session.first += len(batch)
        yield {name: found[_PREFIX + name] for name in tensors}
    if not session.first:
        raise BadInput(f"no images to measure {model_path} with")


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
