"""The weighted layers of a configuration, with their parameters and multiply-accumulates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from resnext.errors import UnknownName

from .config import ResNeXtConfig

#: A node named after a module, with prefixes and suffixes that runtimes add: ``fused conv1``,
#: ``layer1.0.conv2_quant``.
_MODULE = re.compile(r"(?:fused )?(conv1|layer\d+\.\d+\.(?:conv[123]|downsample\.0)|fc)(?:_.*)?")


@dataclass(frozen=True)
class Layer:
    """One convolution or fully connected layer, for one image.

    Attributes:
        name: the parameter prefix in the state dict, for example ``layer1.0.conv2``.
        kernel: height and width of the (square) kernel; 1 for the fully connected layer.
        inputs: input channels.
        outputs: output channels.
        groups: convolution groups.
        in_size: (height, width) of the input, pixels.
        out_size: (height, width) of the output, pixels.
        has_bias: True for the fully connected layer; a convolution is followed by a batch norm
            instead.
    """

    name: str
    kernel: int
    inputs: int
    outputs: int
    groups: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    has_bias: bool = False

    @property
    def weights(self) -> int:
        """Values in the weight tensor."""
        return self.kernel**2 * (self.inputs // self.groups) * self.outputs

    @property
    def input_values(self) -> int:
        """Values in the input of one image."""
        return self.inputs * self.in_size[0] * self.in_size[1]

    @property
    def output_values(self) -> int:
        """Values in the output of one image."""
        return self.outputs * self.out_size[0] * self.out_size[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.weights * self.out_size[0] * self.out_size[1]

    @property
    def parameters(self) -> int:
        """Weights, plus the bias, or the scale and shift of the batch norm that follows."""
        return self.weights + (self.outputs if self.has_bias else 2 * self.outputs)


def layers(config: ResNeXtConfig) -> Iterator[Layer]:
    """Every weighted layer of ``config``, in execution order."""

    def shrink(
        size: tuple[int, int],
    ) -> tuple[int, int]:  # kernel 3 or 7 padded, or 1x1, at stride 2
        return (size[0] + 1) // 2, (size[1] + 1) // 2

    size = config.input_size
    channels = config.stem_channels
    if config.stem == "imagenet":
        size = shrink(size)
        yield Layer("conv1", 7, config.in_channels, channels, 1, config.input_size, size)
        size = shrink(size)
    else:
        yield Layer("conv1", 3, config.in_channels, channels, 1, size, size)
    for stage, depth in enumerate(config.depths):
        inner, outer = config.inner_channels(stage), config.out_channels(stage)
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            strided = stage > 0 and block == 0
            yield Layer(f"{name}.conv1", 1, channels, inner, 1, size, size)
            before, size = size, shrink(size) if strided else size
            yield Layer(f"{name}.conv2", 3, inner, inner, config.cardinality, before, size)
            yield Layer(f"{name}.conv3", 1, inner, outer, 1, size, size)
            if strided or channels != outer:
                yield Layer(f"{name}.downsample.0", 1, channels, outer, 1, before, size)
            channels = outer
    yield Layer("fc", 1, channels, config.num_classes, 1, (1, 1), (1, 1), has_bias=True)


def layers_of(config: ResNeXtConfig, names: Iterable[str]) -> tuple[str, ...]:
    """The layers that ``names`` stand for, in execution order, each once.

    Args:
        config: the network.
        names: of layers (``layer1.0.conv2``), blocks (``layer1.0``) or stages (``layer1``).

    Raises:
        UnknownName: the network has nothing of that name.
    """
    every = [layer.name for layer in layers(config)]
    parts = [part for name in every for part in (_stage_of(name), block_of(name), name)]
    groups = {part: [name for name in every if f"{name}.".startswith(f"{part}.")] for part in parts}
    chosen: set[str] = set()
    for name in names:
        if name not in groups:
            raise UnknownName("layer, block or stage", name, groups)
        chosen.update(groups[name])
    return tuple(name for name in every if name in chosen)


def block_of(layer: str) -> str:
    """The block that a layer is in: ``layer1.0``; the stem and the classifier stand alone."""
    return ".".join(layer.split(".")[:2])


def _stage_of(layer: str) -> str:
    return layer.partition(".")[0]


def parameters(config: ResNeXtConfig) -> int:
    """Trainable parameters."""
    return sum(layer.parameters for layer in layers(config))


def macs(config: ResNeXtConfig) -> int:
    """Multiply-accumulates of one image through convolutions and the classifier."""
    return sum(layer.macs for layer in layers(config))


def stage_templates(config: ResNeXtConfig) -> list[str]:
    """The rows of the paper's Table 1: each stage's output size and block template."""
    rows = []
    outputs = {layer.name: layer.out_size for layer in layers(config)}
    for stage, depth in enumerate(config.depths):
        height, width = outputs[f"layer{stage + 1}.0.conv3"]
        inner, outer = config.inner_channels(stage), config.out_channels(stage)
        cardinality = f", C={config.cardinality}" if config.cardinality > 1 else ""
        rows.append(
            f"{height}x{width}: [1x1, {inner}; 3x3, {inner}{cardinality}; 1x1, {outer}] x {depth}"
        )
    return rows


def module_of(node: str) -> str | None:
    """The convolution or classifier that a node is named after, or None.

    Args:
        node: name of a node of an exported graph, also as a runtime renamed it.
    """
    match = _MODULE.fullmatch(node)
    return match[1] if match else None
