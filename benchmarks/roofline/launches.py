"""Every launch of a network on the kernels, with what it moves and multiplies.

The network itself is built on PyTorch's ``meta`` device, with operators that only count: what is
counted is what would be launched.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.network import Choose, PlainConv, fused_network
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvShape, ProductShape
from resnext.network.config import ResNeXtConfig
from resnext.network.forms import fold_batch_norms
from resnext.network.layers import layers
from resnext.network.model import ResNeXt

from .launch import WIDTH, Launch, Read, grouped_launch, pool_launch, product_launch


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
            used = x.shape[0] * shortcut.shape[1] * math.prod(x.shape[2:]) * WIDTH
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
        launch = replace(pool_launch(batch, channels, height, width), reads=(self._read(x),))
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


def _bytes(x: Tensor) -> int:
    return x.numel() * WIDTH
