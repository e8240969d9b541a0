"""Least times of a network, counted from its own layers.

What is counted, for one batch:

- operations: two for each multiply-accumulate of the convolutions and the classifier. Batch norms,
  ReLUs, pooling and additions cost nothing.
- bytes of a layer: its input, its output and its weights, each moved once, at the width of the
  precision. A 1x1 convolution with a stride reads only the pixels that it uses; the last
  convolution of a block also reads the shortcut that is added to its output. Batch norms and ReLUs
  are part of the layer before them, and biases are not counted.
- bytes of a network, layer by layer: those of its layers; max pooling and the mean read and write
  as layers do.
- bytes of a fused block: its input, its output and its weights. The stem writes its pooled output,
  and the head reads what it averages.

A floor of the whole network is the larger of the time for all operations and the time for all
bytes, so the arithmetic of one layer may overlap with the traffic of another. That is the weakest
assumption, and the only one that also holds with several requests in flight. The sum of each
layer's own floor (`LayerFloor.seconds`) and of pooling is the floor of layers that run strictly one
after another: for ResNeXt-50 at fp16 on an H100, 2 % higher at batch 8 and 7 % at batch 64.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from resnext.network.config import ResNeXtConfig
from resnext.network.layers import Layer, layers
from resnext.precision import NUMERICS

#: What sets a floor.
LimitedBy: TypeAlias = Literal["compute", "memory"]


@dataclass(frozen=True)
class Ceiling:
    """The most that a machine does in one precision.

    Attributes:
        operations_per_s: multiplications and additions per second.
        bytes_per_s: bytes read and written per second.
    """

    operations_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class LayerFloor:
    """The least time of one layer that reads its input from memory and writes its output there.

    Attributes:
        layer: the layer.
        macs: multiply-accumulates of the batch.
        bytes: bytes that it reads and writes.
        compute_s: least seconds for the operations.
        memory_s: least seconds for the bytes.
    """

    layer: Layer
    macs: int
    bytes: int
    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The least seconds of this layer by itself."""
        return max(self.compute_s, self.memory_s)

    @property
    def limited_by(self) -> LimitedBy:
        """Which of the two that is."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


@dataclass(frozen=True)
class Floors:
    """The least seconds of one run of a network.

    Attributes:
        compute_s: all operations, with free memory.
        layers_s: the same, with every layer's input and output in memory.
        blocks_s: the same, with only the input and output of every residual block in memory.
    """

    compute_s: float
    layers_s: float
    blocks_s: float

    @property
    def limited_by(self) -> LimitedBy:
        """What sets the floor of fused blocks."""
        return "compute" if self.blocks_s <= self.compute_s else "memory"


def layer_floors(
    config: ResNeXtConfig, precision: str, batch: int, ceiling: Ceiling
) -> Iterator[LayerFloor]:
    """The floor of each convolution and of the classifier, in execution order.

    Args:
        config: the network.
        precision: of weights and activations, a key of `NUMERICS`.
        batch: images in one run.
        ceiling: of this precision.
    """
    for layer in layers(config):
        yield layer_floor(layer, precision, batch, ceiling)


def layer_floor(layer: Layer, precision: str, batch: int, ceiling: Ceiling) -> LayerFloor:
    """The floor of one layer.

    Args:
        layer: with the groups that it runs with.
        precision: of weights and activations, a key of `NUMERICS`.
        batch: images in one run.
        ceiling: of this precision.
    """
    strided = layer.kernel == 1 and layer.in_size != layer.out_size
    pixels = math.prod(layer.out_size if strided else layer.in_size)
    values = layer.inputs * pixels + layer.output_values
    if layer.name.endswith(".conv3"):
        values += layer.output_values  # the shortcut
    size = NUMERICS[precision].width_bytes * (batch * values + layer.weights)
    macs = batch * layer.macs
    return LayerFloor(
        layer, macs, size, 2 * macs / ceiling.operations_per_s, size / ceiling.bytes_per_s
    )


def floors(config: ResNeXtConfig, precision: str, batch: int, ceiling: Ceiling) -> Floors:
    """The floors of a whole network.

    Args:
        config: the network.
        precision: of weights and activations, a key of `NUMERICS`.
        batch: images in one run.
        ceiling: of this precision.
    """
    width = NUMERICS[precision].width_bytes
    each = tuple(layer_floors(config, precision, batch, ceiling))
    compute_s = sum(one.compute_s for one in each)
    pooled_bytes = width * batch * _pooled(config)
    layers_bytes = pooled_bytes + sum(one.bytes for one in each)
    return Floors(
        compute_s,
        max(compute_s, layers_bytes / ceiling.bytes_per_s),
        max(compute_s, blocks_bytes(config, precision, batch) / ceiling.bytes_per_s),
    )


def blocks_bytes(config: ResNeXtConfig, precision: str, batch: int) -> int:
    """Bytes that the fused blocks of a whole network read and write, with their weights.

    Args:
        config: the network.
        precision: of weights and activations, a key of `NUMERICS`.
        batch: images in one run.
    """
    width = NUMERICS[precision].width_bytes
    return width * sum(batch * values + weights for values, weights in _blocks(config))


def _pooled(config: ResNeXtConfig) -> int:
    """Values that max pooling and the mean read and write for one image."""
    stem, first, *_, last, head = layers(config)
    pooling = stem.output_values + first.input_values if config.stem == "imagenet" else 0
    return pooling + head.inputs * (math.prod(last.out_size) + 1)


def _blocks(config: ResNeXtConfig) -> Iterator[tuple[int, int]]:
    """Values that each fused block reads and writes for one image, and its weights."""
    blocks: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers(config):
        blocks[".".join(layer.name.split(".")[:2])].append(layer)
    stem, *residual, head = blocks.values()
    yield stem[0].input_values + residual[0][0].input_values, stem[0].weights
    for block in residual:
        yield block[0].input_values + block[-1].output_values, sum(one.weights for one in block)
    yield residual[-1][-1].output_values + head[0].output_values, head[0].weights
