"""A grouped 3x3 convolution with bias and ReLU, as an implicit matrix product over merged groups.

Narrow groups are merged to ``GROUP`` channels (`resnext.network.forms.merge_model_groups`, exact),
so that each tap is a matrix product of pixels x ``GROUP`` by ``GROUP`` x ``GROUP`` on tensor cores.
A program walks down a strip of rows. Each input row is read once for each of the three columns of
taps, and adds to the three output rows that it touches: 3 reads of an input value instead of 9.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

#: Channels of a merged group that the kernel has tiles for.
WIDTHS = (16, 32, 64)


class ConvTile(NamedTuple):
    """How the work of the convolution is cut.

    Attributes:
        images: images of a program's pixels, a power of two.
        columns: output columns of a program, a power of two.
        rows: output rows of a program, one after another.
        warps: warps of a program.
        stages: 1 loads the next row into registers, through the L1 cache; more are rows that are
            copied ahead into shared memory, past it.
    """

    images: int
    columns: int
    rows: int
    warps: int
    stages: int


def grid(
    shape: tuple[int, ...], out_height: int, out_width: int, width: int, tile: ConvTile
) -> tuple[int]:
    """Number of programs for images of ``shape`` (N x C x H x W)."""
    across = triton.cdiv(out_width, tile.columns) * triton.cdiv(out_height, tile.rows)
    return (triton.cdiv(shape[0], tile.images) * across * (shape[1] // width),)


def launch(
    kernel: Any, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, stride: int, tile: ConvTile
) -> None:
    """Write ``relu(conv(x) + bias)`` into ``y``.

    Args:
        kernel: `grouped_conv3x3_kernel`, as PyTorch or an interpreter wants it.
        x: N x C x H x W, channels-last, float16 or bfloat16.
        weight: groups x 3 x 3 x inputs x outputs of a merged group, contiguous.
        bias: C values, float32.
        y: N x C x OH x OW, channels-last.
        stride: 1 or 2.
        tile: how the work is cut.
    """
    width = weight.shape[3]
    kernel[grid(x.shape, y.shape[2], y.shape[3], width, tile)](
        x,
        weight,
        bias,
        y,
        x.shape[0],
        x.shape[2],
        x.shape[3],
        y.shape[2],
        y.shape[3],
        CHANNELS=x.shape[1],
        GROUP=width,
        STRIDE=stride,
        IMAGES=tile.images,
        COLUMNS=tile.columns,
        ROWS=tile.rows,
        AHEAD=tile.stages == 1 and tile.rows > 1,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


@triton.jit
def _row(x, row, height, width, left, CHANNELS: tl.constexpr, valid):
    """Three tiles of one input row: at ``left``, and one and two columns further right."""
    inside = valid & (row >= 0) & (row < height)
    x += row * width * CHANNELS
    tile0 = tl.load(x, mask=(inside & (left >= 0) & (left < width))[:, None], other=0.0)
    tile1 = tl.load(x + CHANNELS, mask=(inside & (left + 1 < width))[:, None], other=0.0)
    tile2 = tl.load(x + 2 * CHANNELS, mask=(inside & (left + 2 < width))[:, None], other=0.0)
    return tile0, tile1, tile2


@triton.jit
def _taps(sums, tiles, weights):
    """Add the three taps of one kernel row."""
    sums = tl.dot(tiles[0], weights[0], sums)
    sums = tl.dot(tiles[1], weights[1], sums)
    return tl.dot(tiles[2], weights[2], sums)


@triton.jit
def _store(y, total, mask):
    """The ReLU; not a maximum, which would turn NaN into 0."""
    total = tl.where(total < 0, 0.0, total)
    tl.store(y, total.to(y.dtype.element_ty), mask=mask[:, None])


@triton.jit(do_not_specialize=["images", "height", "width", "out_height", "out_width"])
def grouped_conv3x3_kernel(
    x,
    weight,
    bias,
    y,
    images,
    height,
    width,
    out_height,
    out_width,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    STRIDE: tl.constexpr,
    IMAGES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """One strip of ``ROWS`` output rows x ``COLUMNS`` columns of ``IMAGES`` images, one group."""
    program = tl.program_id(0)
    # The groups of the same pixels run side by side: together they read whole lines of memory.
    group = program % (CHANNELS // GROUP)
    program = program // (CHANNELS // GROUP)
    blocks = (out_width + COLUMNS - 1) // COLUMNS
    column = (program % blocks) * COLUMNS
    program = program // blocks
    strips = (out_height + ROWS - 1) // ROWS
    first_row = (program % strips) * ROWS
    first_image = (program // strips) * IMAGES

    pixel = tl.arange(0, IMAGES * COLUMNS)
    image, column = pixel // COLUMNS, column + pixel % COLUMNS
    channel = tl.arange(0, GROUP)
    left = column * STRIDE - 1
    valid = first_image + image < images
    # 64 bits for the first image; within a program 32 are enough.
    x += first_image.to(tl.int64) * height * width * CHANNELS + group * GROUP
    x += ((image * height * width + left) * CHANNELS)[:, None] + channel[None, :]
    y += first_image.to(tl.int64) * out_height * out_width * CHANNELS + group * GROUP
    y += ((image * out_height * out_width + column) * CHANNELS)[:, None] + channel[None, :]
    stored = valid & (column < out_width)

    weight += group * 9 * GROUP * GROUP + channel[:, None] * GROUP + channel[None, :]
    top = (
        tl.load(weight),
        tl.load(weight + GROUP * GROUP),
        tl.load(weight + 2 * GROUP * GROUP),
    )
    middle = (
        tl.load(weight + 3 * GROUP * GROUP),
        tl.load(weight + 4 * GROUP * GROUP),
        tl.load(weight + 5 * GROUP * GROUP),
    )
    bottom = (
        tl.load(weight + 6 * GROUP * GROUP),
        tl.load(weight + 7 * GROUP * GROUP),
        tl.load(weight + 8 * GROUP * GROUP),
    )
    offset = tl.load(bias + group * GROUP + channel)[None, :]
    zero = tl.full((IMAGES * COLUMNS, GROUP), 0.0, tl.float32)

    above = first_row * STRIDE - 1
    tiles = _row(x, above, height, width, left, CHANNELS, valid)
    current = _taps(zero, tiles, top)
    following = zero
    if STRIDE == 1:
        tiles = _row(x, above + 1, height, width, left, CHANNELS, valid)
        current = _taps(current, tiles, middle)
        following = _taps(zero, tiles, top)
        if AHEAD:
            tiles = _row(x, above + 2, height, width, left, CHANNELS, valid)
    elif AHEAD:
        tiles = _row(x, above + 1, height, width, left, CHANNELS, valid)
    # What is loaded ahead ends with the strip.
    end = tl.minimum(height, (first_row + ROWS) * STRIDE + 2 - STRIDE)
    for step in range(ROWS):
        row = first_row + step
        if STRIDE == 1:
            if AHEAD:
                upcoming = _row(x, row + 2, end, width, left, CHANNELS, valid)
            else:
                tiles = _row(x, row + 1, height, width, left, CHANNELS, valid)
            current = _taps(current, tiles, bottom)
            _store(y + row * out_width * CHANNELS, current + offset, stored & (row < out_height))
            # A sum of its own: if sums moved from register to register while products are in
            # flight, the assembler would wait after each of them.
            current = following + _taps(zero, tiles, middle)
            following = _taps(zero, tiles, top)
            if AHEAD:
                tiles = upcoming
        else:
            if AHEAD:
                upcoming = _row(x, 2 * row + 1, height, width, left, CHANNELS, valid)
            else:
                tiles = _row(x, 2 * row, height, width, left, CHANNELS, valid)
            current = _taps(current, tiles, middle)
            if AHEAD:
                tiles = upcoming
                upcoming = _row(x, 2 * row + 2, end, width, left, CHANNELS, valid)
            else:
                tiles = _row(x, 2 * row + 1, height, width, left, CHANNELS, valid)
            current = _taps(current, tiles, bottom)
            _store(y + row * out_width * CHANNELS, current + offset, stored & (row < out_height))
            current = _taps(zero, tiles, top)
            if AHEAD:
                tiles = upcoming
