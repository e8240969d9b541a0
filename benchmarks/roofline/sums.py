"""The passes of a network on machines, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from resnext.network.config import ResNeXtConfig
from resnext_bench.limits.floors import Ceiling, floors

from .accounts import differences
from .assembled import Compile, assembled
from .bounds import Prediction, predict
from .choice import OnPaper
from .launch import Launch
from .launches import launches
from .machines import ASSUMED, MACHINES

#: What is asked of the kernels: share of the layer-wise floor at batch 64, and times the launch
#: floor at batch 1.
SHARE, TIMES = 0.70, 1.3
#: The launch floor that the goal was set with: 56 kernels of 2 us.
LAUNCHES, LAUNCH_US = 56, 2.0
#: Microseconds that torch.compile took in a CUDA graph (2026-11-27-h200-resnext50-fp16), by
#: machine, precision and batch; the kernels have to be so many times as fast.
COMPILED_US: Mapping[tuple[str, str, int], float] = MappingProxyType({("h200", "fp16", 64): 3253.6})
FASTER = 2.0


@dataclass(frozen=True)
class Sum:
    """One pass of the network.

    Attributes:
        machine: key of `MACHINES`.
        precision: ``fp16`` or ``bf16``.
        batch: images.
        passes: predictions of every launch, by key of `ASSUMED`.
        floor_us: layer-wise floor from the data sheet's ceilings, microseconds.
        own_floor_us: the same from the ceilings that were measured.
    """

    machine: str
    precision: str
    batch: int
    passes: Mapping[str, Sequence[Prediction]]
    floor_us: float
    own_floor_us: float

    def us(self, assumed: str = "expected") -> float:
        """Microseconds of the pass."""
        return sum(each.us for each in self.passes[assumed])


def predicted(
    config: ResNeXtConfig,
    machines: Iterable[str],
    precisions: Iterable[str],
    batches: Sequence[int],
    tiles: str = "first",
    compiled: Compile | None = None,
) -> Iterator[Sum]:
    """Sums for every machine, precision and batch.

    Args:
        config: the network.
        machines: keys of `MACHINES`.
        precisions: ``fp16``, ``bf16``.
        batches: images.
        tiles: ``first`` of the choices, or the best on ``paper``.
        compiled: compiles a kernel without a GPU; None estimates what it uses.

    Raises:
        ValueError: the launches do not move the bytes of the network's layers.
    """
    for name in machines:
        machine = MACHINES[name]
        if tiles == "paper":
            choose = OnPaper(machine, ASSUMED["expected"])
            counted = {batch: launches(config, batch, choose) for batch in batches}
        else:
            counted = {batch: untried(config, batch) for batch in batches}
        for batch, each in counted.items():
            if wrong := differences(each, config, batch):
                raise ValueError(f"batch {batch}: bytes counted and expected differ: {wrong}")
        for precision in precisions:
            own = Ceiling(machine.products_s[precision], machine.copy_bytes_s)
            for batch, estimated in counted.items():
                each = assembled(estimated, compiled, precision) if compiled else estimated
                yield Sum(
                    name,
                    precision,
                    batch,
                    {
                        key: predict(each, machine, assumed, precision)
                        for key, assumed in ASSUMED.items()
                    },
                    1e6 * floors(config, precision, batch, machine.sheet).layers_s,
                    1e6 * floors(config, precision, batch, own).layers_s,
                )


@cache
def untried(config: ResNeXtConfig, batch: int) -> list[Launch]:
    """Launches with the first tiles."""
    return launches(config, batch)


def goals(each: Sum) -> Iterator[tuple[str, float]]:
    """Goals of a pass, and the most microseconds that each allows."""
    if each.batch == 64:
        yield f"{SHARE:.0%} of the layer-wise floor", each.floor_us / SHARE
    if compiled := COMPILED_US.get((each.machine, each.precision, each.batch)):
        yield f"{FASTER:g} times as fast as torch.compile", compiled / FASTER
    if each.batch == 1:
        us = TIMES * LAUNCHES * LAUNCH_US
        yield f"{TIMES} times {LAUNCHES} launches of {LAUNCH_US:g} us", us
        count = len(each.passes["expected"])
        measured = MACHINES[each.machine].launch_us
        yield f"{TIMES} times {count} launches of {measured:.2f} us", TIMES * count * measured
