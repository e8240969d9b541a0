"""The largest activations of a float32 network, and which of them overflow in half precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.errors import BadArtifact, SessionFailed, UsageError, first_line
from resnext.machine.faults import environment_fault
from resnext.precision import PRECISIONS
from resnext_export.passes.graph import WEIGHTED, inferred
from resnext_export.passes.lower import HalfPrecision

#: Smallest subnormal of fp16; values below half of it become zero.
FP16_TINIEST = 2.0**-24
_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)
#: Memory for the outputs of one run, in bytes. ResNeXt-50 takes 80 MB per 224-pixel image.
_BUDGET_BYTES = 256 << 20


@dataclass(frozen=True)
class ActivationRange:
    """The output of one node over all images.

    Attributes:
        node: its name, for example ``layer2.0.conv3``.
        largest: largest absolute value; NaN if any value is.
        smallest: smallest absolute value that is a normal float32; infinity if there is none.
        vanishing: share of all values that are nonzero but below fp16's smallest subnormal, 2**-24.
    """

    node: str
    largest: float
    smallest: float
    vanishing: float


@dataclass(frozen=True)
class Overflow:
    """A node whose output exceeds a type, or comes close.

    Attributes:
        node: its name.
        precision: the type.
        largest: largest absolute value observed.
        beyond: True if that exceeds the type (or is NaN), False if only other images might.
    """

    node: str
    precision: HalfPrecision
    largest: float
    beyond: bool

    def __str__(self) -> str:
        """One line: the observed value, the limit, what to do."""
        limit = PRECISIONS[self.precision]
        relation = "beyond" if self.beyond else "close to"
        return (
            f"{self.node} reaches {self.largest:.6g}, {relation} {self.precision}'s"
            f" {limit.largest:.6g}; use {' or '.join(limit.wider)}"
        )


def activation_ranges(
    model: Path | onnx.ModelProto, images: NDArray[np.float32] | NDArray[np.uint8]
) -> tuple[ActivationRange, ...]:
    """Run a float32 graph on ONNX Runtime's CPU provider and measure the output of each weighted
    node and each Add.

    These are a layer's values before its activation function, which a type must be able to hold.

    Args:
        model: an ONNX file, or the model itself, which is not modified.
        images: float32, N x C x H x W, preprocessed; or uint8 pixels, N x H x W x C, if the graph
            has its own preprocessing.

    Returns:
        One range for each node, in graph order.

    Raises:
        UsageError: no images, or the graph computes in another type.
        BadArtifact: a shape inside the graph is unknown, or shapes and types are inconsistent.
        SessionFailed: ONNX Runtime refuses the graph or the images.
    """
    if not len(images):
        raise UsageError("activation ranges need at least one image")
    proto = onnx.load(model) if isinstance(model, Path) else model
    watched = _watched(proto)
    first = proto.graph.input[0].type.tensor_type.shape.dim[0]
    rows = first.dim_value or max(
        1, min(len(images), _BUDGET_BYTES // (4 * sum(size for _, _, size in watched)))
    )
    parts: dict[str, list[ActivationRange]] = {}
    for chunk in _chunks(watched, _BUDGET_BYTES // (4 * rows)):
        session = _session(proto, [tensor for _, tensor, _ in chunk])
        for start in range(0, len(images), rows):
            values = _run(
                session,
                proto,
                images[start : start + rows],
                rows,
                [tensor for _, tensor, _ in chunk],
            )
            for (node, _, _), value in zip(chunk, values, strict=True):
                parts.setdefault(node, []).append(_range(node, value))
    counts = [len(images[start : start + rows]) for start in range(0, len(images), rows)]
    return tuple(_joined(ranges, counts) for ranges in parts.values())


def overflows(
    ranges: Iterable[ActivationRange], precision: HalfPrecision, *, headroom: float = 2.0
) -> tuple[Overflow, ...]:
    """Nodes whose output is beyond ``precision``, or within a factor ``headroom`` of it.

    Args:
        ranges: from `activation_ranges`.
        precision: the type to hold them.
        headroom: how many times larger the activations of other images may be; 1 reports only
            ranges that do not fit.

    Returns:
        In the order of ``ranges``. The first that is ``beyond`` is to blame: later nodes inherit
        it.

    Raises:
        UsageError: ``headroom`` is below 1.
    """
    if not headroom >= 1:
        raise UsageError(f"`headroom` must be at least 1, got {headroom}")
    limit = PRECISIONS[precision].largest
    return tuple(
        Overflow(each.node, precision, each.largest, beyond=not each.largest <= limit)
        for each in ranges
        if not each.largest * headroom <= limit  # written so that NaN counts
    )


def _watched(proto: onnx.ModelProto) -> list[tuple[str, str, int]]:
    """Node, tensor and values per image of each output to measure, in graph order."""
    graph = inferred(proto).graph
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    watched = []
    for node in graph.node:
        if node.op_type not in (*WEIGHTED, "Add"):
            continue
        tensor = node.output[0]
        dtype = types[tensor].elem_type if tensor in types else None
        if node.op_type == "Add" and dtype in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
            continue  # shape arithmetic
        if dtype != onnx.TensorProto.FLOAT:
            actual = onnx.helper.tensor_dtype_to_np_dtype(dtype) if dtype else "an unknown type"
            raise UsageError(
                f"{node.name} computes in {actual}; activation ranges are measured on the float32"
                " graph"
            )
        sizes = [dim.dim_value for dim in types[tensor].shape.dim[1:]]
        if not all(sizes):
            raise BadArtifact(
                f"the shape of the output of {node.name} is unknown",
                hint="export with fixed height and width",
            )
        watched.append((node.name or tensor, tensor, prod(sizes)))
    if not watched:
        raise UsageError("the graph has no convolution, matrix product or Add to measure")
    return watched


def _chunks(
    watched: Sequence[tuple[str, str, int]], limit: int
) -> Iterator[list[tuple[str, str, int]]]:
    """Runs of outputs that have at most ``limit`` values per image in all, or a single output."""
    chunk: list[tuple[str, str, int]] = []
    for item in watched:
        if chunk and sum(size for _, _, size in (*chunk, item)) > limit:
            yield chunk
            chunk = []
        chunk.append(item)
    yield chunk


def _session(proto: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    outputs = {value.name for value in opened.graph.output}
    for tensor in tensors:
        if tensor not in outputs:
            opened.graph.output.append(
                onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
            )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # its errors have no common base class
        raise environment_fault(exc) or SessionFailed(
            f"ONNX Runtime refuses the graph: {first_line(exc)}"
        ) from exc


def _run(
    session: Any, proto: onnx.ModelProto, images: NDArray[Any], rows: int, tensors: Sequence[str]
) -> list[NDArray[Any]]:
    count = len(images)
    if count < rows and proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        images = np.concatenate([images, np.repeat(images[-1:], rows - count, axis=0)])
    try:
        values = session.run(list(tensors), {proto.graph.input[0].name: images})
    except Exception as exc:
        raise environment_fault(exc) or SessionFailed(
            f"ONNX Runtime refuses the images: {first_line(exc)}"
        ) from exc
    return [value[:count] for value in values]


def _range(node: str, value: NDArray[Any]) -> ActivationRange:
    size = np.abs(value)
    normal = np.where(size >= _SMALLEST_NORMAL, size, np.inf)
    vanishing = np.count_nonzero((size > 0) & (size < FP16_TINIEST)) / size.size
    return ActivationRange(node, float(size.max()), float(normal.min()), float(vanishing))


def _joined(parts: Sequence[ActivationRange], counts: Sequence[int]) -> ActivationRange:
    return ActivationRange(
        parts[0].node,
        float(np.max([part.largest for part in parts])),  # unlike Python's max, keeps NaN
        min(part.smallest for part in parts),
        float(np.average([part.vanishing for part in parts], weights=counts)),
    )
