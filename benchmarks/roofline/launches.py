"""Every launch of a network on the kernels, with what it moves and multiplies.

The network itself is built on PyTorch's ``meta`` device, with operators that only count: what is
counted is what would be launched. Biases are left out, as in `resnext_bench.limits.floors`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnext.kernels import grouped_conv3x3, pointwise
from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.network import Choose, PlainConv, fused_network
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvShape, ProductShape
from resnext.network.config import ResNeXtConfig
from resnext.network.forms import fold_batch_norms
from resnext.network.layers import layers
from resnext.network.model import ResNeXt

#: Bytes of a float16 or bfloat16.
_WIDTH = 2
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


def launches(config: ResNeXtConfig, batch: int, choose: Choose | None = None) -> list[Launch]:
    """The launches of one pass in float16 or bfloat16, in order.

    Args:
        config: the network.
        batch: images.
        choose: chooses tiles; None takes the first ones.
    """
    counted, model = _Counted(), _folded(config)
    with torch.device("meta"):
        network = fused_network(model, batch, torch.float16, choose, counted)
        images = torch.empty(batch, config.in_channels, *config.input_size, dtype=torch.float16)
    for name, module in network.named_modules():
        module.register_forward_pre_hook(partial(counted.enter, name))
        if isinstance(module, nn.Conv2d | PlainConv):
            module.register_forward_hook(counted.convolution)
    network.fc.register_forward_pre_hook(counted.mean)
    network.fc.register_forward_hook(counted.classifier)
    network(images)
    return [
        replace(launch, useful=batch * macs_of(config, launch.name)) for launch in counted.launches
    ]


@cache
def _folded(config: ResNeXtConfig) -> ResNeXt:
    with torch.device("meta"), torch.no_grad():
        return fold_batch_norms(ResNeXt(config).eval())


def macs_of(config: ResNeXtConfig, name: str) -> int:
    """Multiply-accumulates of one image in a launch; a block's last one has the projection's."""
    fused = name.replace(".conv3", ".downsample.0")
    return sum(layer.macs for layer in layers(config) if layer.name in (name, fused))


class _Counted:
    """Operators that only count; see `resnext.kernels.network.Kernels`."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self._name = ""
        self._written: list[Tensor] = []  # by launch; kept, so that no other has the same id

    def enter(self, name: str, *_: object) -> None:
        """The layer that runs next."""
        self._name = name

    def grouped_conv3x3(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, tile: list[int]
    ) -> Tensor:
        """A grouped 3x3 convolution."""
        del bias
        shape = ConvShape(x.shape[0], x.shape[1], weight.shape[3], x.shape[2], x.shape[3], stride)
        y = x.new_empty(shape.batch, shape.channels, shape.out_height, shape.out_columns)
        launch = grouped_launch(shape, ConvTile(*tile))
        reads = (self._read(weight), self._read(x))
        return self._add(replace(launch, reads=reads), y)

    def pointwise(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        tile: list[int],
        shortcut: Tensor | None = None,
        projection: Tensor | None = None,
        stride: int = 1,
    ) -> Tensor:
        """A 1x1 convolution."""
        del bias, stride
        y = x.new_empty(x.shape[0], weight.shape[1], *x.shape[2:])
        reads = [self._read(weight), self._read(x)]
        if projection is not None:
            reads.append(self._read(projection))
        if shortcut is not None:  # only the pixels that the projection uses
            used = x.shape[0] * shortcut.shape[1] * math.prod(x.shape[2:]) * _WIDTH
            reads.append(self._read(shortcut)._replace(bytes=used))
        shape = ProductShape(
            x.shape[0] * math.prod(x.shape[2:]),
            weight.shape[0],
            weight.shape[1],
            0 if projection is None else projection.shape[0],
            shortcut is not None and projection is None,
        )
        launch = product_launch(shape, ProductTile(*tile))
        return self._add(replace(launch, reads=tuple(reads)), y)

    def max_pool(self, x: Tensor, bias: Tensor) -> Tensor:
        """The stem's pool."""
        del bias
        self._name = "pool"
        batch, channels, height, width = x.shape
        y = x.new_empty(batch, channels, (height - 1) // 2 + 1, (width - 1) // 2 + 1)
        programs = batch * -(-math.prod(y.shape[1:]) // _POOLED)
        # A program's pixels lie in a row: it needs three rows of twice as many pixels, and one.
        pixels = max(1, _POOLED // channels)
        once = math.prod(y.shape) * 3 * (2 * pixels + 1) // pixels
        loaded = math.prod(y.shape) * 9
        launch = Launch(
            self._name,
            "pool",
            f"{_POOLED} values",
            (self._read(x),),
            _bytes(y),
            macs=0,
            programs=programs,
            warps=_POOL_WARPS,
            registers=48,
            l2_once=_WIDTH * once + _bytes(y),
            l2_again=_WIDTH * max(0, loaded - once),
            l1=_WIDTH * loaded + _bytes(y),
            steps=3,
        )
        return self._add(launch, y)

    def convolution(self, module: nn.Conv2d | PlainConv, args: tuple[Tensor], y: Tensor) -> None:
        """A convolution of PyTorch's; its bias and its ReLU are two more passes."""
        (x,) = args
        macs = module.weight[0].numel() * y.numel()
        self._torch((self._read(module.weight), self._read(x)), y, macs)
        if module.bias is not None:
            for after in ("bias", "ReLU"):
                self.enter(f"{self._name.partition(' ')[0]} {after}")
                self._torch((self._read(y),), y)

    def mean(self, module: nn.Module, args: tuple[Tensor]) -> None:
        """The mean in front of the classifier."""
        del module
        self._name = "mean"
        before = len(self.launches) - 1
        self._torch((Read(before, self.launches[before].written),), args[0])
        self._name = "fc"

    def classifier(self, module: nn.Linear, args: tuple[Tensor], y: Tensor) -> None:
        """The classifier."""
        reads = (self._read(module.weight), self._read(args[0]))
        self._torch(reads, y, args[0].shape[0] * module.weight.numel())

    def _torch(self, reads: tuple[Read, ...], y: Tensor, macs: int = 0) -> None:
        self._add(Launch(self._name, "torch", "", reads, _bytes(y), macs), y)

    def _add(self, launch: Launch, y: Tensor) -> Tensor:
        self.launches.append(replace(launch, name=self._name))
        self._written.append(y)
        return y

    def _read(self, x: Tensor) -> Read:
        made = [index for index, y in enumerate(self._written) if y is x]
        return Read(made[-1] if made else None, _bytes(x))


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
    row_bytes = _WIDTH * pixels * group
    weight_bytes = _WIDTH * 9 * group * group
    output_bytes = _WIDTH * shape.batch * shape.channels * shape.out_height * shape.out_columns
    read_rows = shape.batch * (shape.height + overlap * (strips - 1)) * _WIDTH * shape.channels
    once = read_rows * (shape.columns + overlap * (blocks - 1))
    again = max(0, read_rows * 3 * shape.out_columns - once)
    copied = tile.stages > 1  # past registers and the L1 cache
    l1 = (
        rows * 3 * row_bytes * (1 if copied else 2)
        + products * (row_bytes + _WIDTH * group * group * -(-pixels // _ROWS))
        + 3 * tile.rows * row_bytes  # sums change their layout in shared memory, then are stored
        + 2 * weight_bytes
    )
    threads = 32 * tile.warps
    return Launch(
        "",
        "grouped 3x3",
        f"{tile.images}x{tile.columns}, {tile.rows} rows, groups of {group}",
        (Read(None, _WIDTH * shape.batch * shape.channels * shape.height * shape.columns),),
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
    output_bytes = _WIDTH * shape.pixels * shape.outputs
    tile_bytes = _WIDTH * tile.pixels * tile.outputs
    left, right = tile.pixels * tile.inputs, tile.inputs * tile.outputs
    step_bytes = _WIDTH * (2 * left + right * (1 + -(-tile.pixels // _ROWS)))
    sums = tile.pixels * tile.outputs // (32 * tile.warps)
    return Launch(
        "",
        "pointwise",
        f"{tile.pixels}x{tile.outputs}x{tile.inputs}, {tile.stages} stages",
        (Read(None, _WIDTH * shape.pixels * inputs + (output_bytes if shape.shortcut else 0)),),
        output_bytes,
        macs=programs * tile.pixels * tile.outputs * tile.inputs * sum(loops),
        programs=programs,
        warps=tile.warps,
        registers=min(255, (2 if shape.shortcut else 1) * sums + 48),
        shared=tile.stages * _WIDTH * (left + right),
        l2_once=_WIDTH * inputs * (shape.pixels * across + shape.outputs * down)
        + output_bytes * (2 if shape.shortcut else 1),
        l1=programs * (sum(loops) * step_bytes + (4 if shape.shortcut else 3) * tile_bytes),
        steps=sum(1 + (loop - 1) / max(1, tile.stages - 1) for loop in loops)
        + (2 if shape.shortcut else 1),
        shape=shape,
        choice=tile,
    )


def _bytes(x: Tensor) -> int:
    return x.numel() * _WIDTH
