"""Least microseconds of a launch on a machine, by what could limit it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .launch import Launch
from .machines import (
    ISSUED_CYCLE,
    L1_BYTES_CYCLE,
    PORT_BYTES_CYCLE,
    PROGRAMS,
    REGISTERS,
    SHARED_BYTES,
    THREADS,
    Assumed,
    Machine,
)

#: What a miss would mean, by the bound that rules.
MISSES: Mapping[str, str] = MappingProxyType(
    {
        "memory": "more bytes than counted: sectors half used, or re-reads that L2 did not catch",
        "L2": "more re-reads than counted (a low hit rate of L1), or the far half of L2 is slower",
        "L1": "bank conflicts, or layouts converted more often than counted",
        "tensor": "narrow products (HMMA in place of HGMMA), or a clock held down by the power cap",
        "issue": "stalls between instructions: more waits than instructions explain",
        "latency": "fewer programs at once than assumed (registers), or loads that do not overlap",
        "launch": "more launches than listed, or gaps in the graph",
    }
)


@dataclass(frozen=True)
class Prediction:
    """One launch on one machine.

    Attributes:
        launch: the launch.
        memory_bytes: bytes through memory.
        waves: turns in which its programs run; 0 if PyTorch decides.
        bounds: microseconds by what could limit it.
        launch_us: microseconds until the next kernel can start.
    """

    launch: Launch
    memory_bytes: int
    waves: float
    bounds: Mapping[str, float]
    launch_us: float

    @property
    def us(self) -> float:
        """The largest bound and the launch, microseconds."""
        return max(self.bounds.values()) + self.launch_us

    @property
    def ruled_by(self) -> str:
        """Name of the largest bound, or ``launch`` if that is larger."""
        name = max(self.bounds, key=lambda each: self.bounds[each])
        return name if self.bounds[name] > self.launch_us else "launch"


def predict(
    launches: Sequence[Launch], machine: Machine, assumed: Assumed, precision: str = "fp16"
) -> list[Prediction]:
    """The launches of one pass.

    Args:
        launches: in order.
        machine: the GPU.
        assumed: what share of its ceilings the kernels reach.
        precision: ``fp16`` or ``bf16``.
    """
    missed = _through_memory(launches, assumed.kept * machine.l2_bytes)
    return [
        _predict(launch, size, machine, assumed, machine.products_s[precision])
        for launch, size in zip(launches, missed, strict=True)
    ]


def resident(launch: Launch) -> int:
    """Programs that one multiprocessor runs at once."""
    threads = 32 * launch.warps
    return max(
        1,
        min(
            PROGRAMS,
            THREADS // threads,
            REGISTERS // (threads * max(1, launch.registers)),
            SHARED_BYTES // max(1, launch.shared),
        ),
    )


def _predict(
    launch: Launch, memory_bytes: int, machine: Machine, assumed: Assumed, products_s: float
) -> Prediction:
    torch = assumed.torch if launch.kernel == "torch" else 1.0
    count, waves, busiest = machine.multiprocessors, 0.0, 1.0
    if launch.programs:
        waves = launch.programs / (count * resident(launch))
        # The multiprocessor with most programs, against an even share.
        busiest = math.ceil(launch.programs / count) * count / launch.programs
    l2_bytes = launch.l2_once + (1 - assumed.caught) * launch.l2_again
    cycles = count * machine.clock_hz
    from_memory = memory_bytes > launch.written
    load_s = (machine.memory_cycles if from_memory else machine.l2_cycles) / machine.clock_hz
    seconds = {
        "memory": memory_bytes / (machine.copy_bytes_s * assumed.memory * torch),
        "L2": l2_bytes
        * max(1 / machine.l2_bytes_s, busiest / (PORT_BYTES_CYCLE * cycles))
        / assumed.l2,
        "L1": launch.l1 * busiest / (L1_BYTES_CYCLE * cycles * assumed.l1),
        "tensor": 2 * launch.macs * busiest / (products_s * assumed.tensor * torch),
        "issue": (launch.instructions or 0.0) * launch.programs * busiest / (ISSUED_CYCLE * cycles),
        "latency": max(1, math.ceil(waves)) * launch.steps * load_s * assumed.loaded,
    }
    return Prediction(
        launch,
        memory_bytes,
        waves,
        MappingProxyType({name: 1e6 * value for name, value in seconds.items()}),
        machine.launch_us * assumed.launch,
    )


def _through_memory(launches: Sequence[Launch], kept_bytes: float) -> list[int]:
    """Bytes of each launch that L2 does not answer.

    An input is read from L2 if it, and all that was read and written since its launch began to
    write it, fit together into ``kept_bytes``. Weights and images come from memory, and outputs go
    there sooner or later.
    """
    through = []
    for index, launch in enumerate(launches):
        size = launch.written
        for producer, read in launch.reads:
            if producer is None:
                size += read
                continue
            since = launches[producer].written
            since += sum(between.bytes for between in launches[producer + 1 : index])
            if since > kept_bytes:
                size += read
        through.append(size)
    return through
