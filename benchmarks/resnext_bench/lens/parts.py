"""Parts of a network with their times: one for each layer that a runtime executes, merged by stage
and kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from resnext.network.layers import Layer
from resnext.precision import NUMERICS
from resnext.runtimes.session import LayerTime
from resnext_bench.limits.floors import LayerFloor

#: Kind of a layer that computes no module.
REST = "rest"
#: Stage of a layer whose name does not say where it belongs.
OTHER = "other"
_STAGE = re.compile(r"layer\d+")
#: Names of layers before the first stage and after the last.
_ENDS = (
    (re.compile(r"conv1|max_?pool|^(bn1|relu|input)\b|^input_"), "stem"),
    (re.compile(r"avg_?pool|^node_mean|\bfc\b|^logits"), "head"),
)


@dataclass(frozen=True)
class Part:
    """One layer as the runtime executes it, or several of one stage and kind.

    Attributes:
        stage: ``stem``, ``layer1`` to ``layer4``, ``head``, or ``other`` if the name does not tell.
        kind: ``stem``, ``1x1``, ``grouped 3x3`` (``3x3`` if there is one group), ``fc``, or
            ``rest`` for layers without multiply-accumulates.
        names: the modules that it computes, or the runtime's name if it computes none.
        channels: input channels of a group: least and most; None for ``rest``.
        macs: multiply-accumulates of the batch.
        bytes: input, output and weights of its modules.
        ops: operators of the layers without modules.
        requested: requested precision; "" for ``rest``.
        actual: element types that it computes in.
        delivered: whether those are types of the requested precision.
        kernels: the runtime's kernels, slowest first; none if it does not tell.
        ns: nanoseconds of a run.
        floor_ns: least nanoseconds; None for ``rest``.
    """

    stage: str
    kind: str
    names: tuple[str, ...]
    channels: tuple[int, int] | None
    macs: int
    bytes: int
    ops: tuple[str, ...]
    requested: str
    actual: tuple[str, ...]
    delivered: bool
    kernels: tuple[str, ...]
    ns: float
    floor_ns: float | None

    @property
    def times_floor(self) -> float | None:
        """Time over floor; None if there is no floor."""
        return self.ns / self.floor_ns if self.floor_ns else None


def parts_of(
    times: Iterable[LayerTime],
    floors: Mapping[str, LayerFloor],
    requested: Mapping[str, str],
    merged: Mapping[str, int],
) -> Iterator[Part]:
    """A part for each layer, in the order of execution.

    Args:
        times: the layers.
        floors: floor of each module.
        requested: requested precision of each module.
        merged: number of groups of the modules whose groups were merged.
    """
    counted: set[str] = set()
    for time in times:
        # A module of two layers is counted in the first.
        modules = [name for name in time.layer.modules if name in floors and name not in counted]
        counted.update(modules)
        if not modules:
            again = time.layer.modules[:1] or (time.layer.name,)
            yield Part(
                stage_of(again[0]),
                REST,
                again,
                channels=None,
                macs=0,
                bytes=0,
                ops=(time.layer.op,),
                requested="",
                actual=(time.layer.dtype,),
                delivered=True,
                kernels=(time.kernel,) if time.kernel else (),
                ns=time.ns,
                floor_ns=None,
            )
            continue
        each = [floors[name] for name in modules]
        layers = [one.layer for one in each]
        widths = [_channels(layer, merged) for layer in layers]
        precision = requested[modules[0]]
        yield Part(
            stage_of(modules[0]),
            kind_of(layers[0]),
            tuple(modules),
            (min(widths), max(widths)),
            sum(one.macs for one in each),
            sum(one.bytes for one in each),
            (),
            precision,
            (time.layer.dtype,),
            time.layer.dtype in NUMERICS[precision].compute_dtypes,
            (time.kernel,) if time.kernel else (),
            time.ns,
            sum(one.seconds for one in each) * 1e9,
        )


def by_stage(parts: Sequence[Part]) -> tuple[Part, ...]:
    """One part for each stage and kind, in the order of execution; ``rest`` comes last in its
    stage, ``other`` at the end.
    """
    stages = sorted({part.stage for part in parts} - {"stem", "head", OTHER})
    groups: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        groups.setdefault((part.stage, part.kind), []).append(part)
    order = ("stem", *stages, "head", OTHER)
    return tuple(
        merged_part(groups[key])
        for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1] == REST))
    )


def merged_part(parts: Sequence[Part]) -> Part:
    """Several parts as one; stage, kind and requested precision are the first one's."""
    first = parts[0]
    slowest = sorted(parts, key=lambda part: -part.ns)
    widths = [width for part in parts for width in part.channels or ()]
    floors = [part.floor_ns for part in parts if part.floor_ns is not None]
    return Part(
        first.stage,
        first.kind,
        tuple(name for part in parts for name in part.names),
        (min(widths), max(widths)) if widths else None,
        sum(part.macs for part in parts),
        sum(part.bytes for part in parts),
        tuple(dict.fromkeys(op for part in slowest for op in part.ops)),
        first.requested,
        tuple(dict.fromkeys(dtype for part in parts for dtype in part.actual)),
        all(part.delivered for part in parts),
        tuple(dict.fromkeys(kernel for part in slowest for kernel in part.kernels)),
        sum(part.ns for part in parts),
        sum(floors) if floors else None,
    )


def stage_of(name: str) -> str:
    """Stage of a layer, by its name; `OTHER` if that does not tell."""
    if match := _STAGE.search(name):
        return match[0]
    return next((stage for pattern, stage in _ENDS if pattern.search(name)), OTHER)


def kind_of(layer: Layer) -> str:
    """Kind of a layer with weights, as `Part` has it."""
    if layer.name in ("conv1", "fc"):
        return {"conv1": "stem", "fc": "fc"}[layer.name]
    return f"{'grouped ' if layer.groups > 1 else ''}{layer.kernel}x{layer.kernel}"


def _channels(layer: Layer, merged: Mapping[str, int]) -> int:
    return layer.inputs // merged.get(layer.name, layer.groups)
