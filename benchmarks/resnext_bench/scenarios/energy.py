"""Joules an image, from the machine's own counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from resnext.machine.energy import EnergySource, energy_sources
from resnext.machine.nvml import Nvml, open_nvml
from resnext.timing import clock
from resnext.timing.streams import time_streams
from resnext_bench.measure import Call

from .energy_record import EnergyRecord, EnergyUse
from .scenario import Stage

#: Length of the pass, seconds: twenty times the longest time between two steps of a counter.
_PASS_S = 2.0
#: Length of the idle stretch before it.
_IDLE_S = 1.0
#: Threads that look for work, and clocks, come down in this time.
_CALM_S = 0.2
#: Time between two readings of a counter.
_READ_EVERY_S = 0.05
#: A shorter pass says nothing, because counters move in steps.
_LEAST_S = 0.5


@dataclass(frozen=True)
class Energy:
    """Counts the energy of back-to-back runs. It takes no time on a machine without counters.

    Attributes:
        nvml: opens NVML.
        sleep: waits for so many seconds.
    """

    nvml: Callable[[], AbstractContextManager[Nvml]] = open_nvml
    sleep: Callable[[float], None] = time.sleep
    field: str = field(default="energy", init=False)

    def __call__(self, stage: Stage) -> EnergyRecord | None:
        """Run ``stage``'s session for a while; None if the machine has no counter.

        Raises:
            ResnextError: what the session raises.
        """
        on_device = stage.subject.bound.cuda_stream is not None
        with self.nvml() as nvml:
            sources, problems = energy_sources(nvml, gpu=on_device)
            if not sources:
                if not problems:
                    return None
                return EnergyRecord(images=0, seconds=0.0, uses=(), problems=tuple(problems))
            stage.say(f"energy of {stage.case}")
            self._wait(_CALM_S, [])
            idle = [_Counted(source) for source in sources]
            idle_s = self._wait(_IDLE_S, idle)
            work, images, seconds = _run(stage, sources)
        uses = tuple(
            _use(before, during, idle_s, images, seconds)
            for before, during in zip(idle, work, strict=True)
        )
        return EnergyRecord(images=images, seconds=seconds, uses=uses, problems=tuple(problems))

    def _wait(self, seconds: float, counted: list[_Counted]) -> float:
        """Wait for ``seconds`` and read the counters meanwhile; how long it really was."""
        began = clock.now_ns()
        while (left := seconds - (clock.now_ns() - began) / 1e9) > 0:
            self.sleep(min(left, _READ_EVERY_S))
            for one in counted:
                one.read()
        return (clock.now_ns() - began) / 1e9


class _Counted:
    """Joules of one stretch, by one source."""

    def __init__(self, source: EnergySource) -> None:
        self.source, self.problem = source, ""
        self._first = self._last = 0.0
        self._first = self._last = self._read()

    @property
    def joules(self) -> float:
        """Since the beginning."""
        return self._last - self._first

    def read(self) -> None:
        """Read the counter."""
        self._last = self._read()

    def _read(self) -> float:
        try:
            return self.source.read()
        except (OSError, ValueError) as exc:
            self.problem = f"the counter cannot be read any more: {exc}"
            return self._last


def _run(stage: Stage, sources: list[EnergySource]) -> tuple[list[_Counted], int, float]:
    """Run back to back: the energy, the number of images, and the seconds."""
    run = _runner(stage)
    count = clock.iterations_for(_READ_EVERY_S * 1e9, run(1)[1])
    counted = [_Counted(source) for source in sources]
    began, done, seconds = clock.now_ns(), 0, 0.0
    while seconds < _PASS_S and not stage.deadline.over():
        done += run(count)[0]
        for one in counted:
            one.read()
        seconds = (clock.now_ns() - began) / 1e9
    return counted, done * stage.case.batch, seconds


def _runner(stage: Stage) -> Callable[[int], tuple[int, int]]:
    """Runs a number of times, at the boundary that the row is judged by; returns the runs of all
    streams, and the nanoseconds of one.
    """
    subject = stage.subject
    calls = [Call(stream, subject.inputs) for stream in subject.session.streams()]

    def on_device(count: int) -> tuple[int, int]:
        began = clock.now_ns()
        for _ in range(count):
            subject.bound.enqueue()
        subject.bound.synchronize()
        return count, (clock.now_ns() - began) // count

    def on_host(count: int) -> tuple[int, int]:
        several = len(calls) > 1
        times = time_streams(calls, count) if several else clock.time_host(calls[0], count)
        return len(times), min(times)

    return on_device if subject.bound.cuda_stream is not None and len(calls) == 1 else on_host


def _use(idle: _Counted, work: _Counted, idle_s: float, images: int, seconds: float) -> EnergyUse:
    source = work.source
    use = EnergyUse(source=source.name, method=source.method)
    reason = work.problem or idle.problem
    if not reason and seconds < _LEAST_S:
        reason = "the pass was cut short"
    if not reason and work.joules == 0:
        reason = f"the counter stood still for {seconds:.1f} s of work"
    if not reason and (work.joules < 0 or idle.joules < 0):
        reason = "the counter went backwards"
    if reason:
        return use.model_copy(update={"reason": reason})
    return use.model_copy(
        update={
            "joules_per_image": work.joules / images,
            "idle_w": idle.joules / idle_s,
            "power_w": work.joules / seconds,
        }
    )
