"""The stem's bias, ReLU and 3x3 max pool (stride 2) in one pass.

A bias per channel and a ReLU are monotonic, so they can follow the maximum: the stem's output is
read once, and never written with its ReLU.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

#: Output values of a program, and its warps.
_BLOCK, _WARPS = 1024, 4


def launch(kernel: Any, x: Tensor, bias: Tensor, y: Tensor) -> None:
    """Write ``relu(max_pool(x) + bias)`` into ``y``.

    Args:
        kernel: `max_pool_kernel`, as PyTorch or an interpreter wants it.
        x: N x C x H x W, channels-last, float16 or bfloat16.
        bias: C values, float32.
        y: N x C x ceil(H / 2) x ceil(W / 2), channels-last.
    """
    channels = x.shape[1]
    per_image = channels * y.shape[2] * y.shape[3]
    kernel[(triton.cdiv(per_image, _BLOCK), x.shape[0])](
        x,
        bias,
        y,
        x.shape[2],
        x.shape[3],
        y.shape[3],
        per_image,
        CHANNELS=channels,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )


@triton.jit(do_not_specialize=["height", "width", "out_width"])
def max_pool_kernel(
    x,
    bias,
    y,
    height,
    width,
    out_width,
    per_image,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``BLOCK`` output values of one image."""
    image = tl.program_id(1).to(tl.int64)
    x += image * height * width * CHANNELS
    y += image * per_image
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    stored = place < per_image
    channel, pixel = place % CHANNELS, place // CHANNELS
    top, left = pixel // out_width * 2 - 1, pixel % out_width * 2 - 1
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    for tap in tl.static_range(9):
        row, column = top + tap // 3, left + tap % 3
        inside = stored & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        value = tl.load(
            x + (row * width + column) * CHANNELS + channel, mask=inside, other=float("-inf")
        )
        best = tl.maximum(best, value.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    best += tl.load(bias + channel, mask=stored, other=0.0)
    # Not a maximum, which would turn NaN into 0.
    best = tl.where(best < 0, 0.0, best)
    tl.store(y + place, best.to(y.dtype.element_ty), mask=stored)
