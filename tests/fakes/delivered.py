"""Counting the layers that a session reports."""

from __future__ import annotations

from resnext.runtimes.session import Delivered


def layer_share(
    delivered: Delivered, dtype: str, ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
) -> float:
    """Share (0 to 1) of the layers whose operator is in ``ops`` that compute in ``dtype``; 0 if
    there are none.
    """
    heavy = [layer for layer in delivered.layers if layer.op in ops]
    return sum(layer.dtype == dtype for layer in heavy) / len(heavy) if heavy else 0.0
