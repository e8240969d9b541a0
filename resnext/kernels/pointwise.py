"""A 1x1 convolution as a matrix product, with bias, shortcut and ReLU in its epilogue.

The last product of a block adds the block's shortcut before the ReLU. If the shortcut is a
projection, it is a second product that adds to the same sums: its output is never stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class ProductTile(NamedTuple):
    """How the work of a product is cut.

    Attributes:
        pixels: rows of a program's tile.
        outputs: output channels of it.
        inputs: input channels of one step.
        warps: warps of a program.
        stages: steps whose loads are in flight.
    """

    pixels: int
    outputs: int
    inputs: int
    warps: int
    stages: int


def grid(pixels: int, outputs: int, tile: ProductTile) -> tuple[int]:
    """Number of programs."""
    return (triton.cdiv(pixels, tile.pixels) * triton.cdiv(outputs, tile.outputs),)


def launch(
    kernel: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y: Tensor,
    tile: ProductTile,
    *,
    shortcut: Tensor | None = None,
    projection: Tensor | None = None,
    stride: int = 1,
) -> None:
    """Write ``relu(x @ weight + bias + shortcut)`` into ``y``.

    Args:
        kernel: `pointwise_kernel`, as PyTorch or an interpreter wants it.
        x: N x C x H x W, channels-last, float16 or bfloat16.
        weight: C x outputs, contiguous.
        bias: values of the outputs, float32; includes the projection's.
        y: N x outputs x H x W, channels-last.
        tile: how the work is cut.
        shortcut: of the shape of ``y`` if there is no ``projection``; else the block's input.
        projection: channels of ``shortcut`` x outputs, contiguous.
        stride: of the projection.
    """
    pixels, outputs = y.shape[0] * y.shape[2] * y.shape[3], y.shape[1]
    inputs, more = x.shape[1], projection.shape[0] if projection is not None else 0
    kernel[grid(pixels, outputs, tile)](
        x,
        weight,
        bias,
        y,
        x if shortcut is None else shortcut,
        weight if projection is None else projection,
        pixels,
        y.shape[2],
        y.shape[3],
        1 if shortcut is None else shortcut.shape[2],
        1 if shortcut is None else shortcut.shape[3],
        INPUTS=inputs,
        OUTPUTS=outputs,
        PROJECTED=more,
        STRIDE=stride,
        SHORTCUT=shortcut is not None and projection is None,
        PIXELS=tile.pixels,
        BLOCK=tile.outputs,
        STEP=tile.inputs,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


@triton.jit
def _product(
    sums,
    x,
    weight,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEP: tl.constexpr,
    stored,
    inside,
):
    """Add ``x @ weight``; ``x`` and ``weight`` point at their first ``STEP`` channels."""
    channel = tl.arange(0, STEP)
    x += channel[None, :]
    weight += channel[:, None] * OUTPUTS
    for start in range(0, INPUTS, STEP):
        if INPUTS % STEP == 0:
            left = tl.load(x, mask=stored[:, None], other=0.0)
            right = tl.load(weight, mask=inside[None, :], other=0.0)
        else:
            there = start + channel < INPUTS
            left = tl.load(x, mask=stored[:, None] & there[None, :], other=0.0)
            right = tl.load(weight, mask=there[:, None] & inside[None, :], other=0.0)
        sums = tl.dot(left, right, sums)
        x += STEP
        weight += STEP * OUTPUTS
    return sums


@triton.jit(do_not_specialize=["pixels", "out_height", "out_width", "height", "width"])
def pointwise_kernel(
    x,
    weight,
    bias,
    y,
    shortcut,
    projection,
    pixels,
    out_height,
    out_width,
    height,
    width,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PROJECTED: tl.constexpr,
    STRIDE: tl.constexpr,
    SHORTCUT: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """``PIXELS`` rows x ``BLOCK`` output channels."""
    program = tl.program_id(0)
    # Programs of the same pixels run side by side, and find them in the L2 cache.
    blocks = (OUTPUTS + BLOCK - 1) // BLOCK
    pixel = (program // blocks) * PIXELS + tl.arange(0, PIXELS)
    output = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    stored, inside = pixel < pixels, output < OUTPUTS
    far = pixel.to(tl.int64)
    sums = tl.full((PIXELS, BLOCK), 0.0, tl.float32)
    sums = _product(
        sums,
        x + (far * INPUTS)[:, None],
        weight + output[None, :],
        INPUTS,
        OUTPUTS,
        STEP,
        stored,
        inside,
    )
    if PROJECTED > 0:
        if STRIDE > 1:
            row = pixel // out_width
            image = row // out_height
            row = image * height + (row % out_height) * STRIDE
            far = row.to(tl.int64) * width + (pixel % out_width) * STRIDE
        sums = _product(
            sums,
            shortcut + (far * PROJECTED)[:, None],
            projection + output[None, :],
            PROJECTED,
            OUTPUTS,
            STEP,
            stored,
            inside,
        )
    sums += tl.load(bias + output, mask=inside, other=0.0)[None, :]
    place = (pixel.to(tl.int64) * OUTPUTS)[:, None] + output[None, :]
    mask = stored[:, None] & inside[None, :]
    if SHORTCUT:
        sums += tl.load(shortcut + place, mask=mask, other=0.0).to(tl.float32)
    # Not a maximum, which would turn NaN into 0.
    sums = tl.where(sums < 0, 0.0, sums)
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=mask)
