"""A ResNeXt on the kernels: batch norms folded, groups merged, three launches for a block."""

from __future__ import annotations

from types import ModuleType
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from resnext.network.forms import fold_batch_norms, merge_groups
from resnext.network.model import Bottleneck, ResNeXt

from .pointwise import ProductTile
from .tiles import ConvChoice, ConvShape, ProductShape, conv_choices, product_choices


class Kernels(Protocol):
    """The operators of `resnext.kernels.ops`, or others that compute the same."""

    def grouped_conv3x3(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, tile: list[int]
    ) -> Tensor:
        """A grouped 3x3 convolution with bias and ReLU."""
        ...

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
        """A 1x1 convolution with bias, shortcut and ReLU."""
        ...

    def max_pool(self, x: Tensor, bias: Tensor) -> Tensor:
        """A 3x3 max pool of stride 2 with bias and ReLU."""
        ...


class Choose(Protocol):
    """Chooses tiles: `first`, or one that measures."""

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """One of ``choices``."""
        ...

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        """One of ``choices``."""
        ...


class First:
    """Takes the first choice, untried."""

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """The first."""
        del shape
        return choices[0]

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        """The first."""
        del shape
        return choices[0]


class GroupedConv3x3(nn.Module):
    """A grouped 3x3 convolution with bias and ReLU on the kernel.

    Args:
        conv: the folded convolution, its groups merged.
        choice: width of its groups, and tile.
        dtype: of activations and weights; the bias stays float32.
        kernels: the operators.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, conv: nn.Conv2d, choice: ConvChoice, dtype: torch.dtype, kernels: Kernels
    ) -> None:
        super().__init__()
        weight, width = conv.weight.detach().to(dtype), choice.width
        packed = weight.reshape(-1, width, width, 3, 3).permute(0, 3, 4, 2, 1)
        self.register_buffer("weight", packed.contiguous())
        self.register_buffer("bias", _bias(conv))
        self.stride, self.choice, self._run = conv.stride[0], choice, kernels.grouped_conv3x3

    def forward(self, x: Tensor) -> Tensor:
        """N x C x OH x OW of ``x`` (N x C x H x W)."""
        return self._run(x, self.weight, self.bias, self.stride, list(self.choice.tile))


class Pointwise(nn.Module):
    """A 1x1 convolution with bias, shortcut and ReLU on the kernel.

    Args:
        conv: the folded convolution.
        projection: the folded projection of the shortcut.
        tile: how the work is cut.
        dtype: of activations and weights; the bias stays float32.
        kernels: the operators.

    Attributes:
        stride: of the projection.
    """

    weight: Tensor
    bias: Tensor
    projection: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        projection: nn.Conv2d | None,
        tile: ProductTile,
        dtype: torch.dtype,
        kernels: Kernels,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", _matrix(conv, dtype))
        bias, more = _bias(conv), None
        self.stride = 1
        if projection is not None:
            bias, more = bias + _bias(projection), _matrix(projection, dtype)
            self.stride = projection.stride[0]
        self.register_buffer("bias", bias)
        self.register_buffer("projection", more)
        self.tile, self._run = tile, kernels.pointwise

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """N x outputs x H x W of ``x`` (N x C x H x W) and the block's input."""
        return self._run(
            x, self.weight, self.bias, list(self.tile), shortcut, self.projection, self.stride
        )


class PlainConv(nn.Module):
    """A grouped 3x3 convolution that the kernel does not take, on PyTorch's own, with ReLU.

    Args:
        conv: the folded convolution.
        dtype: of activations, weights and bias.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight = conv.weight.detach().to(dtype)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", _bias(conv).to(dtype))
        self.stride, self.groups = conv.stride[0], conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """N x C x OH x OW of ``x`` (N x C x H x W)."""
        y = functional.conv2d(x, self.weight, self.bias, self.stride, 1, groups=self.groups)
        return y.relu_()


class FusedBlock(nn.Module):
    """A bottleneck block in three launches.

    Args:
        conv1: reduces the channels.
        conv2: the grouped convolution.
        conv3: expands the channels, and adds the shortcut.
    """

    def __init__(
        self, conv1: Pointwise, conv2: GroupedConv3x3 | PlainConv, conv3: Pointwise
    ) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv1, conv2, conv3

    def forward(self, x: Tensor) -> Tensor:
        """N x out_channels x OH x OW of ``x`` (N x in_channels x H x W)."""
        y: Tensor = self.conv3(self.conv2(self.conv1(x)), x)
        return y


class FusedNetwork(nn.Module):
    """A ResNeXt on the kernels, with the names of its layers.

    The stem's convolution, the mean and the classifier are PyTorch's. Use `fused_network`.
    """

    bias: Tensor | None
    fc: nn.Linear

    def __init__(
        self, conv1: nn.Conv2d, dtype: torch.dtype, kernels: Kernels, *, pooled: bool
    ) -> None:
        super().__init__()
        self.conv1, self._kernels = conv1, kernels
        if pooled:
            self.register_buffer("bias", _bias(conv1))
            conv1.bias = None  # added after the pool
        else:
            self.bias = None
        conv1.to(dtype)
        conv1.weight.data = conv1.weight.contiguous(memory_format=torch.channels_last)
        self.blocks: list[FusedBlock] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N x classes) of preprocessed images ``x`` (N x in_channels x H x W)."""
        # Of a one-channel image, a convolution does not know the layout.
        x = self.conv1(x).contiguous(memory_format=torch.channels_last)
        x = x.relu_() if self.bias is None else self._kernels.max_pool(x, self.bias)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits

    @property
    def plain(self) -> list[str]:
        """Names of the grouped convolutions that PyTorch's own kernels run."""
        return [name for name, module in self.named_modules() if isinstance(module, PlainConv)]

    @property
    def widths(self) -> dict[str, int]:
        """Channels of a group, after merging, of the grouped convolutions on our kernel."""
        modules = self.named_modules()
        return {name: one.choice.width for name, one in modules if isinstance(one, GroupedConv3x3)}

    @property
    def projected(self) -> list[str]:
        """Names of the products that compute their block's projection, too."""
        products = [pair for pair in self.named_modules() if isinstance(pair[1], Pointwise)]
        return [name for name, one in products if one.projection is not None]


def fused_network(
    model: ResNeXt,
    batch: int,
    dtype: torch.dtype,
    choose: Choose | None = None,
    kernels: Kernels | ModuleType | None = None,
) -> FusedNetwork:
    """The network on the kernels; inference only.

    Args:
        model: the network in eval mode, with its batch norms or without.
        batch: images that the tiles are chosen for; other batches are right, and slower.
        dtype: of activations and weights: the kernels take float16 and bfloat16.
        choose: chooses a tile for each layer; None takes the first that is worth trying.
        kernels: the operators; None takes `resnext.kernels.ops`.
    """
    if kernels is None:
        from . import ops as kernels
    run, choose = cast("Kernels", kernels), choose or First()
    config = model.config
    with torch.no_grad():
        folded = fold_batch_norms(model)
        pooled = config.stem == "imagenet"
        network = FusedNetwork(folded.conv1, dtype, run, pooled=pooled)
        size = tuple(side if not pooled else _half(_half(side)) for side in config.input_size)
        for index, stage in enumerate(folded.stages):
            fused = nn.Sequential()
            for block in cast("nn.Sequential", stage):
                assert isinstance(block, Bottleneck)
                fused.append(_fused_block(block, batch, size, dtype, choose, run))
                size = tuple(_half(side) if block.conv2.stride[0] == 2 else side for side in size)
            network.add_module(f"layer{index + 1}", fused)
            network.blocks.extend(cast("list[FusedBlock]", list(fused)))
        network.fc = folded.fc.to(dtype)
    return network.eval().requires_grad_(False)


def _fused_block(
    block: Bottleneck,
    batch: int,
    size: tuple[int, ...],
    dtype: torch.dtype,
    choose: Choose,
    kernels: Kernels,
) -> FusedBlock:
    height, columns = size
    stride, channels = block.conv2.stride[0], block.conv2.in_channels
    shape = ConvShape(batch, channels, channels // block.conv2.groups, height, columns, stride)
    conv2: GroupedConv3x3 | PlainConv
    if choices := conv_choices(shape):
        choice = choose.conv(shape, choices)
        merged = merge_groups(block, choice.width // shape.width)
        conv2 = GroupedConv3x3(merged.conv2, choice, dtype, kernels)
    else:
        conv2 = PlainConv(block.conv2, dtype)

    def product(conv: nn.Conv2d, pixels: int, *, last: bool) -> Pointwise:
        projection = cast("nn.Conv2d", block.downsample[0]) if last and block.downsample else None
        asked = ProductShape(
            pixels,
            conv.in_channels,
            conv.out_channels,
            0 if projection is None else projection.in_channels,
            shortcut=last and projection is None,
            stride=1 if projection is None else stride,
        )
        tile = choose.product(asked, product_choices(asked))
        return Pointwise(conv, projection, tile, dtype, kernels)

    return FusedBlock(
        product(block.conv1, batch * height * columns, last=False),
        conv2,
        product(block.conv3, batch * shape.out_height * shape.out_columns, last=True),
    )


def _half(side: int) -> int:
    return (side - 1) // 2 + 1


def _matrix(conv: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    return conv.weight.detach().flatten(1).t().to(dtype).contiguous()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # of the folded batch norm
    return conv.bias.detach().float()
