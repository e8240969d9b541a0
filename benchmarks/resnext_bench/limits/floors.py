"""Least times of a network, counted from its own layers.

What is counted, for one batch:

- operations: two for each multiply-accumulate of the convolutions and the classifier. Batch norms,
  ReLUs, pooling and additions cost nothing: they are folded or ride along.
- bytes of a layer: its input, its output and its weights, each moved once, at the width of the
  precision; the last convolution of a block also reads the shortcut that is added to its output.
  Biases, and the passes of max pooling and of the mean, are not counted (3 % of ResNeXt-50's
  bytes): a runtime can compute both beside a convolution.
- bytes of a fused block: its input, its output and its weights. The stem writes its pooled output,
  and the head reads what it averages.

A floor of the whole network is the larger of all operations and all bytes, so the arithmetic of one
layer may overlap with the traffic of another. That is the weakest assumption, and the only one that
also holds with several requests in flight. The sum of each layer's own floor (`LayerFloor.seconds`)
is the floor of layers that run strictly one after another; on an H100 it is up to 6 % higher.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from resnext.network.config import ResNeXtConfig
from resnext.network.layers import Layer, layers
from resnext.precision import Precision

#: Bytes of one value of weights or activations.
WIDTH_BYTES: Mapping[Precision, int] = MappingProxyType(
    {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
)

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
        blocks_bytes: bytes that fused blocks read and write.
    """

    compute_s: float
    layers_s: float
    blocks_s: float
    blocks_bytes: int

    @property
    def limited_by(self) -> LimitedBy:
        """What sets the floor of fused blocks."""
        return "compute" if self.blocks_s <= self.compute_s else "memory"


def layer_floors(
    config: ResNeXtConfig, precision: Precision, batch: int, ceiling: Ceiling
) -> Iterator[LayerFloor]:
    """The floor of each convolution and of the classifier, in execution order.

    Args:
        config: the network.
        precision: of weights and activations.
        batch: images in one run.
        ceiling: of this precision.
    """
    for layer in layers(config):
        values = layer.input_values + layer.output_values
        if layer.name.endswith(".conv3"):
            values += layer.output_values  # the shortcut
        size = WIDTH_BYTES[precision] * (batch * values + layer.weights)
        macs = batch * layer.macs
        yield LayerFloor(
            layer, macs, size, 2 * macs / ceiling.operations_per_s, size / ceiling.bytes_per_s
        )


def floors(config: ResNeXtConfig, precision: Precision, batch: int, ceiling: Ceiling) -> Floors:
    """The floors of a whole network.

    Args:
        config: the network.
        precision: of weights and activations.
        batch: images in one run.
        ceiling: of this precision.
    """
    each = tuple(layer_floors(config, precision, batch, ceiling))
    compute_s = sum(one.compute_s for one in each)
    blocks_bytes = WIDTH_BYTES[precision] * sum(
        batch * values + weights for values, weights in _blocks(config)
    )
    return Floors(
        compute_s,
        max(compute_s, sum(one.memory_s for one in each)),
        max(compute_s, blocks_bytes / ceiling.bytes_per_s),
        blocks_bytes,
    )


def _blocks(config: ResNeXtConfig) -> Iterator[tuple[int, int]]:
    """Values that each fused block reads and writes for one image, and its weights."""
    blocks: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers(config):
        blocks[".".join(layer.name.split(".")[:2])].append(layer)
    stem, *residual, head = blocks.values()
    pooled = residual[0][0].input_values
    yield stem[0].input_values + pooled, stem[0].weights
    for block in residual:
        written = next(layer for layer in block if layer.name.endswith(".conv3")).output_values
        yield block[0].input_values + written, sum(layer.weights for layer in block)
    averaged = next(layer for layer in residual[-1] if layer.name.endswith(".conv3")).output_values
    yield averaged + head[0].output_values, head[0].weights
