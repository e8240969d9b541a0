"""The bytes of the launches, counted a second time from the layers of the network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from resnext.kernels.tiles import ConvShape
from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers

from .launch import WIDTH, Launch


def differences(
    launches: Sequence[Launch], config: ResNeXtConfig, batch: int
) -> dict[str, tuple[int, int]]:
    """Launches whose bytes are not those of their layers: bytes counted, and expected.

    Args:
        launches: all of one pass.
        config: the network.
        batch: images.
    """
    widths = {each.name: each.shape.width for each in launches if isinstance(each.shape, ConvShape)}
    expected = _bytes_by_launch(config, batch, widths)
    # What PyTorch's convolutions leave to passes of their own.
    written = {layer.name: layer.output_values for layer in layers(config)}
    after = [each.name for each in launches if each.name.endswith((" bias", " ReLU"))]
    expected |= {name: 2 * WIDTH * batch * written[name.split()[0]] for name in after}
    counted: Counter[str] = Counter()
    for launch in launches:
        counted[launch.name] += launch.bytes
    return {
        name: (counted[name], expected.get(name, 0))
        for name in sorted({*counted, *expected})
        if counted[name] != expected.get(name)
    }


def saved_bytes(config: ResNeXtConfig, batch: int) -> Mapping[str, int]:
    """Bytes through memory that the fusions save.

    ``projection``: each projection's output, written and read again. ``pool``: the stem's output,
    read and written by a pass of its own for bias and ReLU.
    """
    every = list(layers(config))
    projections = sum(each.output_values for each in every if "downsample" in each.name)
    stem = every[0].output_values if config.stem == "imagenet" else 0
    return {"projection": 2 * WIDTH * batch * projections, "pool": 2 * WIDTH * batch * stem}


def _bytes_by_launch(
    config: ResNeXtConfig, batch: int, widths: Mapping[str, int]
) -> dict[str, int]:
    every = {layer.name: layer for layer in layers(config)}
    stem, first, *_, last, head = every.values()
    values = {"mean": last.output_values + head.inputs}
    if config.stem == "imagenet":
        values["pool"] = stem.output_values + first.input_values
    weights = dict.fromkeys(values, 0)
    for name, layer in every.items():
        if "downsample" in name:
            continue
        values[name] = layer.input_values + layer.output_values
        weights[name] = 9 * widths[name] * layer.outputs if name in widths else layer.weights
        if name.endswith(".conv3"):
            projection = every.get(name.replace("conv3", "downsample.0"))
            if projection is None:
                values[name] += layer.output_values  # the shortcut
            else:
                values[name] += projection.inputs * math.prod(layer.out_size)
                weights[name] += projection.weights
    return {name: WIDTH * (batch * values[name] + weights[name]) for name in values}
