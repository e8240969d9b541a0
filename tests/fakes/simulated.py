"""A simulated machine for the harness: a clock that only the work moves, sessions whose times are
known, and a meter that reports planted disturbances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext.machine.load import Counters, Load, Meter
from resnext.runtimes.session import Arrays
from resnext.testing import FakeSession
from resnext_bench.measure import Measured, Subject, measure
from resnext_bench.plan import Case, Plan

QUIET = Load(wall_s=1.0, processors=2, cores=2, own=2.0, others=0.0, stolen=0.0, waiting=0.0)
SPINNING = QUIET.model_copy(update={"own": 1.2, "others": 0.8, "waiting": 0.5})


class Machine:
    """The clock, and the number of the visit that is under way.

    Args:
        seed: of all noise.
    """

    def __init__(self, seed: int) -> None:
        self.now = 0
        self.visit = -1
        self.random = np.random.default_rng(seed)

    def read(self) -> int:
        """The clock, nanoseconds."""
        return self.now


class SimulatedSession(FakeSession):
    """Takes planted times.

    Args:
        machine: its clock is advanced.
        times_ns: gives the time of the next run from the visit's number.
    """

    def __init__(self, machine: Machine, times_ns: Callable[[int], float]) -> None:
        super().__init__()
        self._machine, self._times = machine, times_ns
        self._answer = {"logits": self.zeros(1)}

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:  # noqa: ARG002  # as any session's
        """Let time pass."""
        self._machine.now += int(self._times(self._machine.visit))
        return self._answer


class SimulatedMeter(Meter):
    """Counts the visits and reports their planted loads.

    Args:
        machine: whose visits it counts.
        load: load of a visit by its number.
    """

    def __init__(self, machine: Machine, load: Callable[[int], Load]) -> None:
        super().__init__()
        self._machine, self._load = machine, load

    def read(self) -> Counters:
        """A visit begins."""
        self._machine.visit += 1
        return Counters(0.0, 0.0)

    def since(self, before: Counters) -> Load:  # noqa: ARG002  # as the real one
        """Its load."""
        return self._load(self._machine.visit)


def simulate(
    machine: Machine,
    times_ns: Mapping[str, Callable[[int], float]],
    plan: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[int], Load] = lambda _: QUIET,
) -> tuple[Measured, Plan]:
    """A run of the harness on ``machine``.

    Args:
        machine: the clock.
        times_ns: cases by name, each with the time of a run in a given visit.
        plan: fields of the plan.
        monkeypatch: replaces the clock.
        load: load of a visit.
    """
    monkeypatch.setattr("resnext.timing.clock.now_ns", machine.read)
    monkeypatch.setattr("resnext.timing.clock.SETTLE_S", 0.0)
    monkeypatch.setattr("resnext_bench.measure.now_ns", machine.read)
    cases = {Case(name, 1): SimulatedSession(machine, times) for name, times in times_ns.items()}
    inputs = {"input": np.zeros((1, 1), np.float32)}
    subjects = {
        case: Subject(session, inputs, session.bind(inputs), 2) for case, session in cases.items()
    }
    fields = {"warmup_s": 0.0, "min_samples": 1, "precision": 0.01} | plan
    planned = Plan(tuple(cases), **fields)
    return measure(subjects, planned, meter=SimulatedMeter(machine, load)), planned


class Noisy:
    """Times of one case: a level, an effect for each visit, a drift shared by all cases, and a
    heavy-tailed noise for each run.

    Args:
        machine: source of the noise.
        level_ns: median of a run.
        effect: standard deviation of the visits' effects, logarithmic.
        noise: scale of the runs' noise, logarithmic, with three degrees of freedom.
        drift: the machine's level by visit, logarithmic.
    """

    def __init__(
        self,
        machine: Machine,
        level_ns: float,
        effect: float = 0.012,
        noise: float = 0.005,
        drift: Callable[[int], float] = lambda _: 0.0,
    ) -> None:
        self._machine, self._level, self._effect, self._noise = machine, level_ns, effect, noise
        self._drift = drift
        self._visit = -2
        self._at = level_ns
        self._runs: list[float] = []

    def __call__(self, visit: int) -> float:
        """The time of the next run."""
        if visit != self._visit:
            self._visit = visit
            effect = self._effect * self._machine.random.standard_normal() + self._drift(visit)
            self._at = self._level * np.exp(effect)
        if not self._runs:
            tails = self._machine.random.standard_t(3, 256)
            self._runs = np.exp(self._noise * tails).tolist()
        return self._at * self._runs.pop()
