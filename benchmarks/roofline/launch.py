"""One kernel of a network, with what it moves and multiplies; biases are left out, as in
`resnext_bench.limits.floors`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from resnext.kernels import grouped_conv3x3, pointwise
from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvShape, ProductShape

#: Bytes of a float16 or bfloat16.
WIDTH = 2
#: Output values of a program of the pool, and its warps, as in `resnext.kernels.pool`.
_POOLED, _POOL_WARPS = 1024, 4
#: Loads that wait for one another in PyTorch's mean and classifier: assumed.
_TORCH_STEPS = 8.0
#: Rows of pixels of one matrix instruction (wgmma), each of which reads the weights anew.
_ROWS = 64


class Read(NamedTuple):
    """A tensor that a launch reads.

    Attributes:
        producer: number of the launch that wrote it; None for weights and images.
        bytes: of it that are read, each once.
    """

    producer: int | None
    bytes: int


@dataclass(frozen=True)
class Launch:
    """One kernel.

    Attributes:
        name: of its layer, or ``pool``, ``mean``.
        kernel: ``grouped 3x3``, ``pointwise``, ``pool`` or ``torch``.
        tile: how the work is cut, and the width of merged groups; empty if PyTorch decides.
        reads: weights and inputs.
        written: bytes of the output.
        macs: multiply-accumulates that tensor cores do, with zeros of merged groups and padding.
        useful: multiply-accumulates of the network.
        programs: thread blocks; 0 if PyTorch decides.
        warps: of a program.
        registers: of a thread, estimated unless they come from the assembler.
        shared: bytes of shared memory of a program.
        l2_once: bytes that all programs read and write if each reads nothing twice.
        l2_again: bytes that programs read again, which an L1 cache may answer.
        l1: bytes through L1 caches and shared memory.
        steps: loads of a program that wait for one another.
        instructions: that a program's warps issue; None if the assembler was not asked.
        shape: of its layer, with the width of merged groups.
        choice: its tile.
    """

    name: str
    kernel: str
    tile: str
    reads: tuple[Read, ...]
    written: int
    macs: int
    useful: int = 0
    programs: int = 0
    warps: int = 4
    registers: int = 32
    shared: int = 0
    l2_once: int = 0
    l2_again: int = 0
    l1: int = 0
    steps: float = _TORCH_STEPS
    instructions: float | None = None
    shape: ConvShape | ProductShape | None = None
    choice: ConvTile | ProductTile | None = None

    @property
    def bytes(self) -> int:
        """Read and written, each once."""
        return self.written + sum(read.bytes for read in self.reads)


def grouped_launch(shape: ConvShape, tile: ConvTile) -> Launch:
    """What `resnext.kernels.grouped_conv3x3` does for a shape of merged groups, without a name."""
    group, pixels = shape.width, tile.images * tile.columns
    (programs,) = grouped_conv3x3.grid(
        (shape.batch, shape.channels), shape.out_height, shape.out_columns, group, tile
    )
    overlap = 3 - shape.stride  # rows and columns that two neighbors both read
    strips = -(-shape.out_height // tile.rows)
    blocks = -(-shape.out_columns // tile.columns)
    rows = tile.rows * shape.stride + overlap
    products = 9 * tile.rows + (9 if shape.stride == 1 else 3)
    row_bytes = WIDTH * pixels * group
    weight_bytes = WIDTH * 9 * group * group
    output_bytes = WIDTH * shape.batch * shape.channels * shape.out_height * shape.out_columns
    read_rows = shape.batch * (shape.height + overlap * (strips - 1)) * WIDTH * shape.channels
    once = read_rows * (shape.columns + overlap * (blocks - 1))
    again = max(0, read_rows * 3 * shape.out_columns - once)
    copied = tile.stages > 1  # past registers and the L1 cache
    l1 = (
        rows * 3 * row_bytes * (1 if copied else 2)
        + products * (row_bytes + WIDTH * group * group * -(-pixels // _ROWS))
        + 3 * tile.rows * row_bytes  # sums change their layout in shared memory, then are stored
        + 2 * weight_bytes
    )
    threads = 32 * tile.warps
    return Launch(
        "",
        "grouped 3x3",
        f"{tile.images}x{tile.columns}, {tile.rows} rows, groups of {group}",
        (Read(None, WIDTH * shape.batch * shape.channels * shape.height * shape.columns),),
        output_bytes,
        macs=programs * products * pixels * group * group,
        programs=programs,
        warps=tile.warps,
        registers=min(255, round(6.6 * pixels * group / threads)),
        shared=weight_bytes + 3 * row_bytes * max(1, tile.stages),
        l2_once=once + (again if copied else 0) + programs * weight_bytes + output_bytes,
        l2_again=0 if copied else again,
        l1=programs * l1,
        steps=2 + tile.rows / max(1, tile.stages - 1),
        shape=shape,
        choice=tile,
    )


def product_launch(shape: ProductShape, tile: ProductTile) -> Launch:
    """What `resnext.kernels.pointwise` does for a shape, without a name."""
    (programs,) = pointwise.grid(shape.pixels, shape.outputs, tile)
    across = -(-shape.outputs // tile.outputs)
    down = -(-shape.pixels // tile.pixels)
    loops = [-(-inputs // tile.inputs) for inputs in (shape.inputs, shape.projected) if inputs]
    inputs = shape.inputs + shape.projected
    output_bytes = WIDTH * shape.pixels * shape.outputs
    tile_bytes = WIDTH * tile.pixels * tile.outputs
    left, right = tile.pixels * tile.inputs, tile.inputs * tile.outputs
    step_bytes = WIDTH * (2 * left + right * (1 + -(-tile.pixels // _ROWS)))
    sums = tile.pixels * tile.outputs // (32 * tile.warps)
    return Launch(
        "",
        "pointwise",
        f"{tile.pixels}x{tile.outputs}x{tile.inputs}, {tile.stages} stages",
        (Read(None, WIDTH * shape.pixels * inputs + (output_bytes if shape.shortcut else 0)),),
        output_bytes,
        macs=programs * tile.pixels * tile.outputs * tile.inputs * sum(loops),
        programs=programs,
        warps=tile.warps,
        registers=min(255, (2 if shape.shortcut else 1) * sums + 48),
        shared=tile.stages * WIDTH * (left + right),
        l2_once=WIDTH * inputs * (shape.pixels * across + shape.outputs * down)
        + output_bytes * (2 if shape.shortcut else 1),
        l1=programs * (sum(loops) * step_bytes + (4 if shape.shortcut else 3) * tile_bytes),
        steps=sum(1 + (loop - 1) / max(1, tile.stages - 1) for loop in loops)
        + (2 if shape.shortcut else 1),
        shape=shape,
        choice=tile,
    )


def pool_launch(batch: int, channels: int, height: int, width: int) -> Launch:
    """What `resnext.kernels.pool` does for images of a shape, without a name."""
    outputs = channels * ((height - 1) // 2 + 1) * ((width - 1) // 2 + 1)
    # A program's pixels lie in a row: it needs three rows of twice as many pixels, and one.
    pixels = max(1, _POOLED // channels)
    once = batch * outputs * 3 * (2 * pixels + 1) // pixels
    loaded = batch * outputs * 9
    output_bytes = WIDTH * batch * outputs
    return Launch(
        "",
        "pool",
        f"{_POOLED} values",
        (Read(None, WIDTH * batch * channels * height * width),),
        output_bytes,
        macs=0,
        programs=batch * math.ceil(outputs / _POOLED),
        warps=_POOL_WARPS,
        registers=48,
        l2_once=WIDTH * once + output_bytes,
        l2_again=WIDTH * max(0, loaded - once),
        l1=WIDTH * loaded + output_bytes,
        steps=3,
    )
