"""The network stage by stage: work, weights, groups and floors; and what merging groups costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from resnext.network.config import ResNeXtConfig
from resnext.network.forms import merged_layers
from resnext.network.layers import Layer, layers
from resnext.precision import DEFAULT, PRECISIONS
from resnext_bench.lens.parts import kind_of, stage_of
from resnext_bench.limits.ceilings import MachineCeilings
from resnext_bench.limits.floors import LayerFloor, LimitedBy, layer_floor
from resnext_export import left_by_fp8

#: Widths of groups, in channels, that are worth a line.
WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class StageFloor:
    """The least time of the layers of one stage and kind.

    Attributes:
        seconds: sum of each layer's own floor.
        limited_by: what sets the larger part of it.
    """

    seconds: float
    limited_by: LimitedBy


@dataclass(frozen=True)
class Stage:
    """The layers of one stage and kind.

    Attributes:
        stage: ``stem``, ``layer1`` and so on, ``head``.
        kind: ``stem``, ``1x1``, ``grouped 3x3`` (``3x3`` if there is one group), ``fc``.
        layers: number of layers.
        channels: input channels of a group: least and most.
        macs: multiply-accumulates of one image.
        weights: values in the weight tensors.
        floors: by precision; empty without ceilings.
    """

    stage: str
    kind: str
    layers: int
    channels: tuple[int, int]
    macs: int
    weights: int
    floors: Mapping[str, StageFloor] = field(default_factory=dict)


@dataclass(frozen=True)
class Merge:
    """What merging groups to a width costs.

    Attributes:
        width: minimum input channels of a group.
        groups: number of groups of the 3x3s, by stage.
        macs: multiply-accumulates of one image, those with zeros included.
        weights: of convolutions and classifier, zeros included.
        layers: as the merge leaves them.
    """

    width: int
    groups: tuple[int, ...]
    macs: int
    weights: int
    layers: tuple[Layer, ...]


def layers_of(config: ResNeXtConfig, groups: Mapping[str, int]) -> tuple[Layer, ...]:
    """The weighted layers, some with other groups than ``config`` says.

    Args:
        config: the network.
        groups: number of groups by name of the layer.
    """
    return tuple(
        replace(layer, groups=groups.get(layer.name, layer.groups)) for layer in layers(config)
    )


def stages_of(
    every: Iterable[Layer],
    batch: int,
    ceilings: MachineCeilings | None,
    precisions: Sequence[str],
) -> tuple[Stage, ...]:
    """The layers by stage and kind, in order of execution.

    Args:
        every: the layers.
        batch: images in one run, for the floors.
        ceilings: the most that the device can do; None: there are no floors.
        precisions: that the device computes in.
    """
    found: dict[tuple[str, str], list[Layer]] = {}
    for layer in (every := tuple(every)):
        found.setdefault((stage_of(layer.name), kind_of(layer)), []).append(layer)
    floors: dict[str, dict[str, LayerFloor]] = {}
    if ceilings is not None:
        for precision in precisions:
            each = _layer_floors(every, precision, batch, ceilings)
            floors[precision] = {one.layer.name: one for one in each}
    return tuple(_stage(stage, kind, members, floors) for (stage, kind), members in found.items())


def merges_of(config: ResNeXtConfig, groups: Mapping[str, int]) -> tuple[Merge, ...]:
    """What merging to each of `WIDTHS` costs; widths that change nothing more are left out."""
    found: list[Merge] = []
    before = tuple(layer.groups for layer in layers_of(config, groups))
    for width in WIDTHS:
        every = tuple(merged_layers(config, width))
        after = tuple(layer.groups for layer in every)
        if after == before or any(new > old for new, old in zip(after, before, strict=True)):
            continue
        before = after
        by_stage = {stage_of(one.name): one.groups for one in every if one.name.endswith("conv2")}
        macs, weights = sum(one.macs for one in every), sum(one.weights for one in every)
        found.append(Merge(width, tuple(by_stage.values()), macs, weights, every))
    return tuple(found)


def floor_s(every: Iterable[Layer], precision: str, batch: int, ceilings: MachineCeilings) -> float:
    """Least seconds of ``every`` layer, one after another."""
    return sum(one.seconds for one in _layer_floors(tuple(every), precision, batch, ceilings))


def wider(every: Iterable[Layer], precision: str) -> dict[str, str]:
    """The layers of a quantized file that stay in a wider precision, and in which."""
    if precision == "int8":
        return {"fc": DEFAULT}
    if precision == "fp8":
        half = PRECISIONS["fp8"].lowered_to or DEFAULT
        return dict.fromkeys(("fc", *(name for name, _ in left_by_fp8(every))), half)
    return {}


def stage_widths(grouped: Iterable[Layer], below: int) -> str:
    """The stages whose groups are narrower than ``below`` channels, with their width: ``layer1 (4)
    and layer2 (8)``; "" if none is.
    """
    widths: dict[str, int] = {}
    for layer in grouped:
        if layer.groups > 1 and layer.inputs // layer.groups < below:
            widths[stage_of(layer.name)] = layer.inputs // layer.groups
    *first, last = [f"{stage} ({width})" for stage, width in widths.items()] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _stage(
    stage: str,
    kind: str,
    members: Sequence[Layer],
    floors: Mapping[str, Mapping[str, LayerFloor]],
) -> Stage:
    widths = [layer.inputs // layer.groups for layer in members]
    return Stage(
        stage,
        kind,
        len(members),
        (min(widths), max(widths)),
        sum(layer.macs for layer in members),
        sum(layer.weights for layer in members),
        {
            precision: _stage_floor([by_name[layer.name] for layer in members])
            for precision, by_name in floors.items()
        },
    )


def _layer_floors(
    every: Sequence[Layer], precision: str, batch: int, ceilings: MachineCeilings
) -> Iterator[LayerFloor]:
    """Each layer's own floor, in the precision that a file of ``precision`` has it in."""
    others = wider(every, precision)
    for layer in every:
        own = others.get(layer.name, precision)
        yield layer_floor(layer, own, batch, ceilings.ceiling(own))


def _stage_floor(floors: Sequence[LayerFloor]) -> StageFloor:
    memory = sum(one.seconds for one in floors if one.limited_by == "memory")
    seconds = sum(one.seconds for one in floors)
    return StageFloor(seconds, "memory" if memory > seconds / 2 else "compute")
