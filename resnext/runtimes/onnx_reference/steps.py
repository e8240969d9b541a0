"""Quantization for ONNX's reference evaluator in float64: with its steps, and without them.

Without steps, a quantized tensor keeps its range, which often stands for a ReLU, but is not
rounded. The difference is what quantizing activations costs a network.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_21
from onnx.reference.ops.op_quantize_linear import QuantizeLinear_21

_Array = NDArray[Any]


class DequantizeLinear(DequantizeLinear_21):
    """Steps to numbers, in float64; the evaluator's own goes through float32."""

    def _run(  # type: ignore[override]  # attributes by name
        self, x: _Array, scale: _Array, zero: _Array | None = None, **given: Any
    ) -> tuple[_Array]:
        if given.get("block_size"):
            return super()._run(x, scale, zero, **given)  # type: ignore[no-any-return]
        axis = given.get("axis")
        offset = 0.0 if zero is None else _along(zero.astype(np.float64), x, axis)
        return ((x.astype(np.float64) - offset) * _along(scale, x, axis),)


class QuantizeLinear(QuantizeLinear_21):
    """Numbers to the range of their steps, without rounding."""

    def _run(  # type: ignore[override]  # attributes by name
        self, x: _Array, scale: _Array, zero: _Array | None = None, **given: Any
    ) -> tuple[_Array]:
        low, high = _limits(np.dtype(np.uint8) if zero is None else zero.dtype)
        if given.get("block_size") or (zero is None and given.get("output_dtype")):
            return super()._run(x, scale, zero, **given)  # type: ignore[no-any-return]
        axis = given.get("axis")
        offset = 0.0 if zero is None else _along(zero.astype(np.float64), x, axis)
        return (np.clip(x / _along(scale, x, axis) + offset, low, high),)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The smallest and largest value of an element type."""
    if dtype.kind in "iu":
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    limits: Any = ml_dtypes.finfo
    return float(limits(dtype).min), float(limits(dtype).max)


def _along(values: _Array, x: _Array, axis: int | None) -> _Array:
    """One value, or one for each index of an axis of ``x``."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * x.ndim
    shape[1 if axis is None else axis] = values.size
    return values.reshape(shape)
