"""Convolutions and pools of images for ONNX's reference evaluator, whose own take minutes.

Each offset in the kernel is one strided view of the padded input, so that a convolution is a few
matrix products. What these do not cover is left to the evaluator's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.ops.op_average_pool import AveragePool_19 as OnnxAveragePool
from onnx.reference.ops.op_conv import Conv as OnnxConv
from onnx.reference.ops.op_max_pool import MaxPool as OnnxMaxPool

_Array = NDArray[Any]


class Windows:
    """Where a kernel lies on an image.

    Args:
        size: height and width of the image.
        kernel: of the kernel.
        attributes: of the node: strides, dilations, pads, auto_pad, ceil_mode.
    """

    def __init__(
        self, size: Sequence[int], kernel: Sequence[int], attributes: dict[str, Any]
    ) -> None:
        self._strides = attributes.get("strides") or (1, 1)
        self._dilations = attributes.get("dilations") or (1, 1)
        self._kernel = tuple(kernel)
        auto = attributes.get("auto_pad") or "NOTSET"
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, self._dilations, strict=True)]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out = [-(-n // stride) for n, stride in zip(size, self._strides, strict=True)]
            spare = [
                max((o - 1) * stride + r - n, 0)
                for o, stride, r, n in zip(out, self._strides, reach, size, strict=True)
            ]
            before = [(s + (auto == "SAME_LOWER")) // 2 for s in spare]
            after = [s - b for s, b in zip(spare, before, strict=True)]
        else:
            pads = (attributes.get("pads") if auto == "NOTSET" else None) or (0, 0, 0, 0)
            before, after = list(pads[:2]), list(pads[2:])
            free = [n + b + a - r for n, b, a, r in zip(size, before, after, reach, strict=True)]
            if attributes.get("ceil_mode"):
                out = [-(-f // stride) + 1 for f, stride in zip(free, self._strides, strict=True)]
                # A window that begins in the padding behind the image is dropped.
                out = [
                    o - ((o - 1) * stride >= n + b)
                    for o, stride, n, b in zip(out, self._strides, size, before, strict=True)
                ]
            else:
                out = [f // stride + 1 for f, stride in zip(free, self._strides, strict=True)]
        self.out: tuple[int, ...] = tuple(out)
        self.padding = tuple(zip(before, after, strict=True))
        #: Behind the padding, as far as the last window reaches.
        self._beyond = tuple(
            (0, max(0, (o - 1) * stride + r - n - b - a))
            for o, stride, r, n, b, a in zip(
                out, self._strides, reach, size, before, after, strict=True
            )
        )

    def padded(self, images: _Array, fill: float, beyond: float | None = None) -> _Array:
        """``images`` with a border of ``fill``, and of ``beyond`` where windows reach farther."""
        once = np.pad(images, ((0, 0), (0, 0), *self.padding), constant_values=fill)
        if not any(after for _, after in self._beyond):
            return once
        more = fill if beyond is None else beyond
        return np.pad(once, ((0, 0), (0, 0), *self._beyond), constant_values=more)

    def views(self, padded: _Array) -> Iterator[tuple[tuple[int, ...], _Array]]:
        """Each offset in the kernel, and what lies under it in all windows."""
        for offset in product(*map(range, self._kernel)):
            cut = [
                slice(at * d, at * d + (o - 1) * stride + 1, stride)
                for at, d, o, stride in zip(
                    offset, self._dilations, self.out, self._strides, strict=True
                )
            ]
            yield offset, padded[:, :, cut[0], cut[1]]


class Conv(OnnxConv):
    """A convolution."""

    def _run(  # type: ignore[override]  # attributes by name
        self, X: _Array, W: _Array, B: _Array | None = None, **given: Any
    ) -> tuple[_Array]:
        if X.ndim != 4:
            return super()._run(X, W, B, **given)  # type: ignore[no-any-return, no-untyped-call]
        groups = given.get("group") or 1
        windows = Windows(X.shape[2:], W.shape[2:], given)
        count, shape = len(X), windows.out
        weight = W.reshape(groups, -1, *W.shape[1:])
        total = np.zeros((count, groups, weight.shape[1], shape[0] * shape[1]), X.dtype)
        for (y, x), view in windows.views(windows.padded(X, 0)):
            total += weight[None, :, :, :, y, x] @ view.reshape(count, groups, W.shape[1], -1)
        total = total.reshape(count, len(W), *shape)
        return (total if B is None else total + B.reshape(1, -1, 1, 1),)


class MaxPool(OnnxMaxPool):
    """The largest value of each window."""

    def _run(  # type: ignore[override]  # attributes by name
        self, x: _Array, **given: Any
    ) -> tuple[_Array, ...]:
        if x.ndim != 4 or x.dtype.kind != "f" or len(self.output) > 1:
            return super()._run(x, **given)  # type: ignore[no-any-return, no-untyped-call]
        windows = Windows(x.shape[2:], given["kernel_shape"], given)
        total = np.full((*x.shape[:2], *windows.out), -np.inf, x.dtype)
        for _, view in windows.views(windows.padded(x, -np.inf)):
            np.maximum(total, view, out=total)
        return (total,)


class AveragePool(OnnxAveragePool):
    """The mean of each window."""

    def _run(  # type: ignore[override]  # attributes by name
        self, x: _Array, **given: Any
    ) -> tuple[_Array, ...]:
        if x.ndim != 4:
            return super()._run(x, **given)  # type: ignore[no-any-return, no-untyped-call]
        windows = Windows(x.shape[2:], given["kernel_shape"], given)
        ones = np.ones((1, 1, *x.shape[2:]))
        counted = windows.padded(ones, 1.0 if given.get("count_include_pad") else 0.0, 0.0)
        total = sum(view for _, view in windows.views(windows.padded(x, 0)))
        count = sum(view for _, view in windows.views(counted))
        return (np.asarray(total / count, x.dtype),)
