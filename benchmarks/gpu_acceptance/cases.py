"""Layers of the network, each with every way to compute it: PyTorch's libraries, and our kernels
with each tile that is worth trying.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from resnext.kernels import grouped_conv3x3, ops, pointwise, pool
from resnext.kernels.network import GroupedConv3x3, Pointwise
from resnext.kernels.tiles import ConvShape, ProductShape, conv_choices, product_choices
from resnext.network.config import ResNeXtConfig
from resnext.network.forms import merge_groups
from resnext.network.layers import Layer, layers
from resnext.network.model import Bottleneck, ResNeXt

from .device import DTYPES, LAYOUTS, Bench

#: Channels that groups are merged to for cuDNN; None leaves them as they are.
CUDNN_WIDTHS = (None, 8, 16, 32, 64)


@dataclass(frozen=True)
class Way:
    """One way to compute a layer.

    Attributes:
        call: computes it; the output is N x C x H x W.
        rest: what ``call`` leaves out (bias and ReLU), applied to its output.
        choice: width and fields of the tile, if the kernel is ours.
        compile: compiles the kernel, and launches nothing.
    """

    call: Callable[[], Tensor]
    rest: Callable[[Tensor], Tensor] | None = None
    choice: tuple[int, ...] | None = None
    compile: Callable[[], object] | None = None


@dataclass(frozen=True)
class Case:
    """One layer at one batch and precision.

    Attributes:
        name: of the layer.
        shape: kind and sizes, under which a choice is kept.
        ways: what makes each of them, by name; ours begin with ``ours``.
        exact: float64 output of the whole layer: convolution, bias, shortcut, ReLU.
        values: elements that are read and written at least.
        macs: multiply-accumulates.
    """

    name: str
    shape: tuple[str | int, ...]
    ways: Mapping[str, Callable[[], Way]]
    exact: Callable[[], Tensor]
    values: int
    macs: int


def grouped_layers(config: ResNeXtConfig) -> list[Layer]:
    """Grouped 3x3 convolutions that differ, in execution order."""
    kinds = {
        (layer.inputs, layer.in_size, layer.out_size): layer
        for layer in reversed(list(layers(config)))
        if layer.name.endswith(".conv2")
    }
    return list(reversed(kinds.values()))


def product_layers(config: ResNeXtConfig) -> list[Layer]:
    """1x1 convolutions that differ, in execution order; a projection is part of the last one of its
    block.
    """
    projected = {
        layer.name.replace("downsample.0", "conv3"): layer.inputs
        for layer in layers(config)
        if layer.name.endswith(".downsample.0")
    }
    kinds = {
        (layer.inputs, layer.outputs, layer.out_size, projected.get(layer.name)): layer
        for layer in reversed(list(layers(config)))
        if layer.name.endswith((".conv1", ".conv3"))
    }
    return list(reversed(kinds.values()))


def conv_case(
    bench: Bench, model: ResNeXt, layer: Layer, batch: int, precision: str, *, few: bool = False
) -> Case:
    """A grouped 3x3 convolution with bias and ReLU.

    Args:
        bench: the device.
        model: the folded network, float32, on the CPU.
        layer: the convolution.
        batch: images.
        precision: of activations and weights.
        few: of cuDNN's ways, those that compute the whole layer in channels-last.
    """
    block, dtype = _block(model, layer, precision), DTYPES[precision]
    width, stride = layer.inputs // layer.groups, block.conv2.stride[0]
    shape = ConvShape(batch, layer.inputs, width, *layer.in_size, stride)
    inputs = _activations(bench, batch, layer.inputs, layer.in_size, precision)
    ways: dict[str, Callable[[], Way]] = {}
    wide = [own for own in CUDNN_WIDTHS if own is None or (own > width and layer.inputs % own == 0)]
    for layout in ("channels-last",) if few else LAYOUTS:
        x = inputs.contiguous(memory_format=LAYOUTS[layout])
        for own in wide:
            for kind in ("conv+bias+relu", "fused", *(() if few else ("alone",))):
                if kind != "fused" or bench.cuda:  # an operator for CUDA alone
                    name = f"cudnn {layout} {own or width} {kind}"
                    ways[name] = partial(
                        _cudnn_way, bench, block, (own or width) // width, x, layout, kind
                    )
    last = inputs.contiguous(memory_format=torch.channels_last)
    y = _output(last, layer)
    for choice in conv_choices(shape):
        name = f"ours {choice.width} {'x'.join(map(str, choice.tile))}"

        def ours(choice: Any = choice) -> Way:
            merged = merge_groups(block, choice.width // width).conv2
            module = GroupedConv3x3(merged, choice, dtype, ops).to(bench.device)
            compiled = partial(
                grouped_conv3x3.launch,
                CompileOnly(grouped_conv3x3.grouped_conv3x3_kernel),
                *(last, module.weight, module.bias, y, stride, choice.tile),
            )
            kept = (choice.width, *choice.tile)
            return Way(partial(module, last), choice=kept, compile=compiled)

        ways[name] = ours
    return Case(
        layer.name,
        ("conv", *shape),
        ways,
        partial(_exact_conv, bench, inputs, block.conv2, precision),
        batch * (layer.input_values + layer.output_values) + layer.weights,
        batch * layer.macs,
    )


def product_case(bench: Bench, model: ResNeXt, layer: Layer, batch: int, precision: str) -> Case:
    """A 1x1 convolution with bias and ReLU; the last one of a block with the shortcut, too."""
    block, dtype = _block(model, layer, precision), DTYPES[precision]
    last = layer.name.endswith(".conv3")
    conv = block.conv3 if last else block.conv1
    projection = block.downsample[0] if last and block.downsample is not None else None
    assert projection is None or isinstance(projection, nn.Conv2d)
    x = _activations(bench, batch, layer.inputs, layer.in_size, precision)
    shortcut, stride, more = None, 1, 0
    if projection is not None:
        stride, more = projection.stride[0], projection.in_channels
        size = tuple(side * stride for side in layer.out_size)
        shortcut = _activations(bench, batch, more, size, precision)
    elif last:
        shortcut = _activations(bench, batch, layer.outputs, layer.out_size, precision)
    pixels = batch * math.prod(layer.out_size)
    shape = ProductShape(pixels, layer.inputs, layer.outputs, more, last and projection is None)
    library = _Product(
        x, shortcut, _placed(bench, conv, x), projection and _placed(bench, projection, x)
    )
    ways: dict[str, Callable[[], Way]] = {
        "cudnn conv2d": lambda: Way(library.convolved),
        "cublas addmm": lambda: Way(library.multiplied),
    }
    if not last:
        ways["cublas addmm+relu in one"] = lambda: Way(library.activated)
    y = _output(x, layer)
    for tile in product_choices(shape):

        def ours(tile: Any = tile) -> Way:
            module = Pointwise(conv, projection, tile, dtype, ops).to(bench.device)
            compiled = partial(
                pointwise.launch,
                CompileOnly(pointwise.pointwise_kernel),
                *(x, module.weight, module.bias, y, tile),
                shortcut=shortcut,
                projection=module.projection,
                stride=module.stride,
            )
            return Way(partial(module, x, shortcut), choice=tuple(tile), compile=compiled)

        ways[f"ours {'x'.join(map(str, tile))}"] = ours
    added = more or (layer.outputs if last else 0)
    return Case(
        layer.name,
        ("product", *shape),
        ways,
        partial(_exact_product, bench, x, shortcut, conv, projection, precision),
        pixels * (layer.inputs + layer.outputs + added) + (layer.inputs + more) * layer.outputs,
        pixels * (layer.inputs + more) * layer.outputs,
    )


def pool_case(bench: Bench, model: ResNeXt, batch: int, precision: str) -> Case:
    """The stem's bias, ReLU and max pool."""
    stem, dtype = next(iter(layers(model.config))), DTYPES[precision]
    assert model.conv1.bias is not None  # of the folded batch norm
    bias = model.conv1.bias.detach().to(dtype).to(bench.device)
    inputs = _activations(bench, batch, stem.outputs, stem.out_size, precision) - 0.5
    ways: dict[str, Callable[[], Way]] = {}
    for layout, form in LAYOUTS.items():
        x = inputs.contiguous(memory_format=form)

        def plain(x: Tensor = x) -> Tensor:
            return functional.max_pool2d((x + bias[:, None, None]).relu_(), 3, 2, 1)

        ways[f"torch {layout} bias+relu+pool"] = lambda plain=plain: Way(plain)  # type: ignore[misc]  # defaults bind
        ways[f"torch {layout} alone"] = lambda x=x: Way(  # type: ignore[misc]  # defaults bind
            partial(functional.max_pool2d, x, 3, 2, 1),
            rest=lambda y: (y + bias.double()[:, None, None]).relu(),
        )
    last = inputs.contiguous(memory_format=torch.channels_last)
    single = bias.float()
    size = tuple((side + 1) // 2 for side in stem.out_size)
    y = _empty(last, (batch, stem.outputs, *size))
    compiled = partial(pool.launch, CompileOnly(pool.max_pool_kernel), last, single, y)
    ways["ours"] = lambda: Way(partial(ops.max_pool, last, single), choice=(), compile=compiled)

    def exact() -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            pooled = functional.max_pool2d(inputs.double(), 3, 2, 1)
        return (pooled + bias.double()[:, None, None]).relu()

    values = batch * (stem.output_values + stem.outputs * math.prod(size))
    return Case("pool", ("pool", *inputs.shape), ways, exact, values, 0)


class CompileOnly:
    """A kernel whose launch compiles it alone.

    Args:
        kernel: as `triton.jit` leaves it.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        return partial(self._kernel.warmup, grid=grid)


def compile_all(bench: Bench, ways: Mapping[str, Way]) -> None:
    """Compile the kernels of ``ways`` side by side; what fails here fails again when it is
    called.
    """
    wanted = [way.compile for way in ways.values() if way.compile is not None]
    if not bench.cuda or not wanted:
        return

    def quietly(compiled: Callable[[], object]) -> None:
        with suppress(Exception):
            compiled()

    quietly(wanted[0])  # one alone: the first sets up Triton's driver
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(quietly, wanted[1:]))


class _Product:
    """A 1x1 convolution by PyTorch's libraries, channels-last."""

    def __init__(
        self, x: Tensor, shortcut: Tensor | None, conv: Any, projection: Any = None
    ) -> None:
        self.x, self.shortcut, self.conv, self.projection = x, shortcut, conv, projection
        self._bias = conv.bias if projection is None else conv.bias + projection.bias
        self._weight = conv.weight.flatten(1).t()

    def convolved(self) -> Tensor:
        """As a network runs it."""
        y: Tensor = self.conv(self.x)
        if self.projection is not None:
            y += self.projection(self.shortcut)
        elif self.shortcut is not None:
            y += self.shortcut
        return y.relu_()

    def multiplied(self) -> Tensor:
        """As matrix products."""
        y = torch.addmm(self._bias, _rows(self.x), self._weight)
        if self.projection is not None:
            assert self.shortcut is not None  # what is projected
            stride = self.projection.stride[0]
            y.addmm_(
                _rows(self.shortcut[:, :, ::stride, ::stride]),
                self.projection.weight.flatten(1).t(),
            )
        elif self.shortcut is not None:
            y += _rows(self.shortcut)
        return self._images(y.relu_())

    def activated(self) -> Tensor:
        """With bias and ReLU in the product's epilogue."""
        return self._images(torch._addmm_activation(self._bias, _rows(self.x), self._weight))

    def _images(self, y: Tensor) -> Tensor:
        batch, _, height, width = self.x.shape
        return y.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    """Pixels x channels of a channels-last tensor."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _cudnn_way(
    bench: Bench, block: Bottleneck, factor: int, x: Tensor, layout: str, kind: str
) -> Way:
    conv = _placed(bench, merge_groups(block, factor).conv2, x, layout)
    arguments = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if kind == "fused":
        operator: Any = torch.cudnn_convolution_relu
        return Way(lambda: operator(x, conv.weight, conv.bias, *arguments))
    if kind == "alone":
        bias = conv.bias.double()[:, None, None]
        return Way(
            lambda: functional.conv2d(x, conv.weight, None, *arguments),
            rest=lambda y: (y + bias).relu(),
        )
    return Way(lambda: functional.conv2d(x, conv.weight, conv.bias, *arguments).relu_())


def _exact_conv(bench: Bench, x: Tensor, conv: nn.Conv2d, precision: str) -> Tensor:
    # not cuDNN's, which is on trial
    with torch.backends.cudnn.flags(enabled=False):
        y: Tensor = _double(bench, conv, precision)(x.double())
    return y.relu()


def _exact_product(
    bench: Bench,
    x: Tensor,
    shortcut: Tensor | None,
    conv: nn.Conv2d,
    projection: nn.Conv2d | None,
    precision: str,
) -> Tensor:
    with torch.backends.cudnn.flags(enabled=False):
        y: Tensor = _double(bench, conv, precision)(x.double())
        if shortcut is not None:
            more = shortcut.double()
            y += more if projection is None else _double(bench, projection, precision)(more)
    return y.relu()


def _placed(bench: Bench, conv: nn.Conv2d, x: Tensor, layout: str = "channels-last") -> Any:
    moved = copy.deepcopy(conv).to(bench.device, x.dtype)
    return moved.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]  # torch's stub leaves this form out


def _double(bench: Bench, conv: nn.Conv2d, precision: str) -> nn.Conv2d:
    """With weights as the layer has them in ``precision``."""
    return copy.deepcopy(conv).to(DTYPES[precision]).to(bench.device, torch.float64)


def _block(model: ResNeXt, layer: Layer, precision: str) -> Bottleneck:
    """The layer's block; biases rounded, so that all ways compute the same function, whether they
    keep them in float32 or not.
    """
    block = model.get_submodule(layer.name.rpartition(".")[0])
    assert isinstance(block, Bottleneck)
    block = copy.deepcopy(block)
    for conv in block.modules():
        if isinstance(conv, nn.Conv2d):
            assert conv.bias is not None  # of the folded batch norm
            conv.bias.copy_(conv.bias.to(DTYPES[precision]))
    return block


def _activations(
    bench: Bench, batch: int, channels: int, size: tuple[int, ...], precision: str
) -> Tensor:
    """Seeded, half of them zero as behind a ReLU, channels-last."""
    generator = torch.Generator(bench.device).manual_seed(0)
    shape = (batch, channels, *size)
    values = torch.randn(shape, generator=generator, device=bench.device).relu_()
    return values.to(DTYPES[precision]).contiguous(memory_format=torch.channels_last)


def _output(x: Tensor, layer: Layer) -> Tensor:
    return _empty(x, (x.shape[0], layer.outputs, *layer.out_size))


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
