"""The floors of a network, against a table that was computed independently, and planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes  # noqa: F401  # registers its types with NumPy
import numpy as np
import pytest

from resnext.network.config import VARIANTS, variant
from resnext.network.layers import Layer, layers, macs
from resnext.precision import NUMERICS, Numerics
from resnext_bench.limits import floors as module
from resnext_bench.limits.floors import Ceiling, floors, layer_floors

_NETWORK = variant("resnext50_32x4d")
_H100: dict[str, Ceiling] = {
    "fp16": Ceiling(800e12, 3.35e12),
    "int8": Ceiling(1600e12, 3.35e12),
}
#: Microseconds of ResNeXt-50 32x4d on an H100: operations alone; every layer through memory; every
#: block fused.
_TABLE: list[tuple[str, int, float, float, float]] = [
    ("fp16", 1, 10.6, 35, 22),
    ("fp16", 8, 85, 177, 85),
    ("fp16", 64, 677, 1311, 677),
    ("int8", 64, 338, 656, 338),
]


def _differences() -> list[float]:
    """Relative differences from the table."""
    found = []
    for precision, batch, *expected in _TABLE:
        floor = floors(_NETWORK, precision, batch, _H100[precision])
        ours = (floor.compute_s, floor.layers_s, floor.blocks_s)
        found += [abs(1e6 * a / b - 1) for a, b in zip(ours, expected, strict=True)]
    return found


def test_the_table_is_reproduced_as_far_as_it_is_rounded() -> None:
    assert max(_differences()) < 0.01  # 22 stands for 21.8, the rest agrees to 0.5 %


def _without_a_layer(config: Any) -> list[Layer]:
    return [layer for layer in layers(config) if layer.name != "layer1.0.conv1"]


def _with_a_block_twice(config: Any) -> list[Layer]:
    again = [layer for layer in layers(config) if layer.name.startswith("layer3.5")]
    return [*layers(config), *again]


def _without_groups(config: Any) -> list[Layer]:
    return [replace(layer, groups=1) for layer in layers(config)]


def _without_strides(config: Any) -> list[Layer]:
    return [replace(layer, in_size=layer.out_size) for layer in layers(config)]


@pytest.mark.parametrize(
    "planted", [_without_a_layer, _with_a_block_twice, _without_groups, _without_strides]
)
def test_wrong_layers_miss_the_table(
    planted: Callable[[Any], list[Layer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "layers", planted)
    assert max(_differences()) > 0.01


def test_bytes_at_the_wrong_width_miss_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(NUMERICS["int8"], calibrated=False)
    monkeypatch.setattr(module, "NUMERICS", {**NUMERICS, "int8": wide})
    assert max(_differences()) > 0.5


@pytest.mark.parametrize("row", NUMERICS.values(), ids=lambda row: row.name)
def test_a_precision_is_as_wide_as_its_element_type(row: Numerics) -> None:
    assert row.width_bytes == np.dtype(row.weight_dtype).itemsize


@pytest.mark.parametrize("name", VARIANTS)
def test_floors_are_ordered_and_count_every_layer(name: str) -> None:
    config, ceiling = VARIANTS[name], Ceiling(1e12, 1e11)
    floor = floors(config, "fp32", 2, ceiling)
    each = list(layer_floors(config, "fp32", 2, ceiling))
    assert [one.layer for one in each] == list(layers(config))
    assert sum(one.macs for one in each) == 2 * macs(config)
    assert floor.compute_s == pytest.approx(4 * macs(config) / 1e12)
    assert floor.compute_s <= floor.blocks_s <= floor.layers_s
    assert floor.layers_s >= sum(one.memory_s for one in each)


def test_a_floor_names_what_sets_it() -> None:
    one = floors(_NETWORK, "fp16", 1, _H100["fp16"])
    many = floors(_NETWORK, "fp16", 8, _H100["fp16"])
    assert (one.limited_by, many.limited_by) == ("memory", "compute")
    each = {f.layer.name: f for f in layer_floors(_NETWORK, "fp16", 8, _H100["fp16"])}
    assert each["layer1.0.conv2"].limited_by == "memory"
    assert each["layer4.0.conv1"].limited_by == "compute"


def test_shapes_chain_through_the_network() -> None:
    """Each layer reads what the one before it in its block has written."""
    each = {layer.name: layer for layer in layers(_NETWORK)}
    for name, layer in each.items():
        if name.endswith((".conv2", ".conv3")):
            before = each[f"{name[:-1]}{int(name[-1]) - 1}"]
            assert (layer.inputs, layer.in_size) == (before.outputs, before.out_size), name
        if name.endswith("downsample.0"):
            assert layer.in_size == each[name.replace("downsample.0", "conv1")].in_size
    assert each["conv1"].in_size == (224, 224)
    assert each["layer1.0.conv1"].in_size == (56, 56)
