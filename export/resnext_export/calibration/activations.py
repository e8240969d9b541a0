"""How large the activations of a float32 network get, and which of them a half-precision type
cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resnext.errors import BadArtifact, SessionFailed, UsageError, first_line
from resnext.precision import PRECISIONS
from resnext_export.passes.graph import WEIGHTED, inferred
from resnext_export.passes.lower import HalfPrecision

#: Smallest subnormal of fp16; what is below half of it becomes zero.
FP16_TINIEST = 2.0**-24
_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)
#: Memory for the outputs of one run, bytes. A ResNeXt-50 gives 80 MB for one image of 224 pixels.
_BUDGET_BYTES = 256 << 20


@dataclass(frozen=True)
class ActivationRange:
    """The output of one node over all images.

    Attributes:
        node: its name, for example ``layer2.0.conv3``.
        largest: largest absolute value; NaN where the network gives NaN.
        smallest: smallest absolute value that is a normal float32; infinity where there is none.
        vanishing: share of all values that are not zero and yet below fp16's smallest subnormal,
            2**-24.
    """

    node: str
    largest: float
    smallest: float
    vanishing: float


@dataclass(frozen=True)
class Overflow:
    """A node whose output a type cannot hold, or only just.

    Attributes:
        node: its name.
        precision: the type.
        largest: largest absolute value that was seen.
        beyond: True where that is more than the type can hold (or NaN), False where other images
            might yet give more.
    """

    node: str
    precision: HalfPrecision
    largest: float
    beyond: bool

    def __str__(self) -> str:
        """One line: what was seen, what is allowed, what to do."""
        limit = PRECISIONS[self.precision]
        is_what = "beyond" if self.beyond else "close to"
        return (
            f"{self.node} reaches {self.largest:.6g}, {is_what} {self.precision}'s"
            f" {limit.largest:.6g}; use {' or '.join(limit.wider)}"
        )


def activation_ranges(
    model: Path | onnx.ModelProto, images: NDArray[np.float32] | NDArray[np.uint8]
) -> tuple[ActivationRange, ...]:
    """Run a float32 graph on ONNX Runtime's CPU provider and look at what each weighted node and
    each Add gives.

    These are what a layer puts out before its activation function, so what a type must hold.

    Args:
        model: an ONNX file, or the model itself, which is left as it is.
        images: what the graph's only input takes; float32, N x C x H x W, preprocessed (or uint8
            pixels, N x H x W x C, where the graph carries its own preprocessing).

    Returns:
        One range for each node, in graph order.

    Raises:
        UsageError: no images, or the graph computes in another type.
        BadArtifact: a shape inside the graph is not known, or shapes and types do not hold
            together.
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
    found: dict[str, list[ActivationRange]] = {}
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
                found.setdefault(node, []).append(_range(node, value))
    counts = [len(images[start : start + rows]) for start in range(0, len(images), rows)]
    return tuple(_joined(ranges, counts) for ranges in found.values())


def overflows(
    ranges: Iterable[ActivationRange], precision: HalfPrecision, *, headroom: float = 2.0
) -> tuple[Overflow, ...]:
    """Nodes whose output is beyond ``precision``, or within a factor ``headroom`` of it.

    Args:
        ranges: what `activation_ranges` gives.
        precision: the type that is to hold them.
        headroom: what other images may give more, as a factor; 1 leaves out those that just fit.

    Returns:
        In the order of ``ranges``. The first that is ``beyond`` is the one to blame: what follows
        inherits it.

    Raises:
        UsageError: ``headroom`` is below 1.
    """
    if not headroom >= 1:
        raise UsageError(f"headroom must be at least 1, got {headroom}")
    limit = PRECISIONS[precision].largest
    return tuple(
        Overflow(each.node, precision, each.largest, beyond=not each.largest <= limit)
        for each in ranges
        if not each.largest * headroom <= limit  # so put, NaN counts
    )


def _watched(proto: onnx.ModelProto) -> list[tuple[str, str, int]]:
    """Node, tensor and values per image of each output to look at, in graph order."""
    graph = inferred(proto).graph
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    found = []
    for node in graph.node:
        if node.op_type not in (*WEIGHTED, "Add"):
            continue
        tensor = node.output[0]
        kind = types[tensor].elem_type if tensor in types else None
        if node.op_type == "Add" and kind in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
            continue  # arithmetic of shapes
        if kind != onnx.TensorProto.FLOAT:
            told = onnx.helper.tensor_dtype_to_np_dtype(kind) if kind else "an unknown type"
            raise UsageError(
                f"{node.name} computes in {told}; activation ranges are measured on the float32"
                " graph"
            )
        sizes = [dim.dim_value for dim in types[tensor].shape.dim[1:]]
        if not all(sizes):
            raise BadArtifact(
                f"the shape of what {node.name} gives is not known; export with fixed height and"
                " width"
            )
        found.append((node.name or tensor, tensor, prod(sizes)))
    if not found:
        raise UsageError("the graph has no convolution, matrix product or Add to look at")
    return found


def _chunks(
    watched: Sequence[tuple[str, str, int]], most: int
) -> Iterator[list[tuple[str, str, int]]]:
    """Neighbours that together have at most ``most`` values per image, or one alone."""
    chunk: list[tuple[str, str, int]] = []
    for item in watched:
        if chunk and sum(size for _, _, size in (*chunk, item)) > most:
            yield chunk
            chunk = []
        chunk.append(item)
    yield chunk


def _session(proto: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    import onnxruntime as ort

    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    given = {value.name for value in opened.graph.output}
    for tensor in tensors:
        if tensor not in given:
            opened.graph.output.append(
                onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
            )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # its classes share no base but Exception
        raise SessionFailed(f"ONNX Runtime refuses the graph: {first_line(exc)}") from exc


def _run(
    session: Any, proto: onnx.ModelProto, images: NDArray[Any], rows: int, tensors: Sequence[str]
) -> list[NDArray[Any]]:
    count = len(images)
    if count < rows and proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        images = np.concatenate([images, np.repeat(images[-1:], rows - count, axis=0)])
    try:
        values = session.run(list(tensors), {proto.graph.input[0].name: images})
    except Exception as exc:
        raise SessionFailed(f"ONNX Runtime refuses the images: {first_line(exc)}") from exc
    return [value[:count] for value in values]


def _range(node: str, value: NDArray[Any]) -> ActivationRange:
    size = np.abs(value)
    normal = np.where(size >= _SMALLEST_NORMAL, size, np.inf)
    vanishing = np.count_nonzero((size > 0) & (size < FP16_TINIEST)) / size.size
    return ActivationRange(node, float(size.max()), float(normal.min()), float(vanishing))


def _joined(parts: Sequence[ActivationRange], counts: Sequence[int]) -> ActivationRange:
    return ActivationRange(
        parts[0].node,
        float(np.max([part.largest for part in parts])),  # NaN wins, which Python's max would lose
        min(part.smallest for part in parts),
        float(np.average([part.vanishing for part in parts], weights=counts)),
    )
