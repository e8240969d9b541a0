"""A workshop whose candidates are planted: how fast they are, what they compute, how they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.here import HERE
from fakes.simulated import QUIET, Machine, Noisy, SimulatedMeter, SimulatedSession
from fakes.tuned import accuracy
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import WeightsRecord
from resnext.errors import ResnextError, SessionFailed
from resnext.machine.load import Load
from resnext.precision import PRECISIONS
from resnext.runtimes.session import Arrays
from resnext.timing.race import Rules
from resnext.verify.accuracy import Accuracy
from resnext.verify.parity import Parity, compare
from resnext.weights.spec import Weights
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples, Subject
from resnext_bench.opening import Opening
from resnext_bench.tune.board import Board
from resnext_bench.tune.confirm import WrongOutput
from resnext_bench.tune.gates import judged
from resnext_bench.tune.record import ConfirmationRecord, TuneRecord
from resnext_bench.tune.request import Request, checked_request
from resnext_bench.tune.result import Tuned
from resnext_bench.tune.search import Search
from resnext_bench.tune.space import Point, Refusal
from resnext_bench.tune.state import restore
from resnext_bench.tune.workshop import Fall, Proof, fall_by_gate

MS = 1_000_000


def parity(*, passed: bool = True) -> Parity:
    """Of two images."""
    reference = np.array([[3.0, 1.0, -2.0], [-1.0, 2.0, 0.5]])
    logits = (reference if passed else reference[::-1]).astype(np.float32)
    return compare(reference, logits, gate=PRECISIONS["fp32"].gate, dtype="float32")


@dataclass(frozen=True)
class Plan:
    """What is planted in a candidate.

    Attributes:
        ms: of a run.
        agreement: on labeled images.
        right: parity passes.
        late: it is the outputs of timed runs that are wrong.
        fall: what its proof finds besides.
        error: of opening it.
        dies: number of the visit, counted from 0, in which its session fails.
        noise: of its runs, as `Noisy`.
        size: bytes of its file.
        tail: every so many runs one takes ten times as long; 0 for none.
    """

    ms: float
    agreement: float = 1.0
    right: bool = True
    late: bool = False
    fall: Fall | None = None
    error: ResnextError | None = None
    dies: int | None = None
    noise: float = 0.002
    size: int = 1_000_000
    tail: int = 0


class PlantedSession(SimulatedSession):
    """Takes planted times, and fails when it is planned.

    Args:
        machine: its clock is advanced.
        plan: what is planted.
        visits: visits of this candidate so far, of earlier sessions too.
    """

    def __init__(self, machine: Machine, plan: Plan, visits: list[int]) -> None:
        noisy = Noisy(machine, plan.ms * MS, effect=plan.noise, noise=plan.noise)
        super().__init__(machine, noisy)
        self._plan, self._visits, self._runs = plan, visits, 0

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Let time pass, or fail."""
        visit = self._machine.visit
        if not self._visits or self._visits[-1] != visit:
            self._visits.append(visit)
        if self._plan.dies is not None and len(self._visits) > self._plan.dies + 1:
            raise SessionFailed("planted: the session died")
        self._runs += 1
        if self._plan.tail and not self._runs % self._plan.tail:
            self._machine.now += int(9 * self._plan.ms * MS)
        return super().run(inputs)


@dataclass
class FakeWorkshop:
    """Opens `PlantedSession`s.

    Attributes:
        machine: the clock.
        plans: by the name of a point; one that is missing is far behind.
        request: whose gates are judged.
        opened, proven: names, in order.
        artifacts: stand-ins by name; None for those that are missing.
        sessions: by name, the last that was opened.
    """

    machine: Machine
    plans: dict[str, Plan]
    request: Request
    opened: list[str] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    sessions: dict[str, PlantedSession] = field(default_factory=dict)
    visits: dict[str, list[int]] = field(default_factory=dict)
    images: int = 2
    artifacts: dict[str, Any] = field(default_factory=dict)

    def parity_of(self, *_: object) -> Parity:
        """As `Bench.parity_of`."""
        return parity()

    def plan(self, point: Point) -> Plan:
        """Of ``point``."""
        return self.plans.get(point.name, Plan(40.0 if point.live else 30.0))

    def open(self, point: Point, stack: ExitStack) -> Opening:
        """As `Workshop.open`."""
        plan = self.plan(point)
        self.opened.append(point.name)
        if plan.error is not None:
            return Opening(error=plan.error)
        visits = self.visits.setdefault(point.name, [])
        session = self.sessions[point.name] = PlantedSession(self.machine, plan, visits)
        stack.callback(session.close)
        inputs = {"input": np.zeros((1, 1), np.float32)}
        subject = Subject(session, inputs, session.bind(inputs), 1)
        return Opening(subject=subject, artifact=self.artifacts.get(point.name))

    def prove(self, point: Point, opening: Opening, known: Accuracy | None) -> Proof:
        """As `Workshop.prove`."""
        del opening, known
        plan = self.plan(point)
        self.proven.append(point.name)
        outcome = parity(passed=plan.right)
        fall = plan.fall
        if fall is None and not plan.right:
            fall = Fall("gate", f"wrong output: {outcome.failures[0]}")
        measured = accuracy(0.9, plan.agreement)
        gates = judged(self.request.gates, accuracy=measured, size_bytes=plan.size)
        if fall is None and not point.live:
            fall = fall_by_gate(gates, measured)
        return Proof("17 float32 on cpu", plan.size, outcome, measured, gates, fall)

    def timed_parity(self, point: Point, opening: Opening, samples: Samples) -> Parity:
        """As `Workshop.timed_parity`."""
        del opening, samples
        return parity(passed=not self.plan(point).late)


@dataclass
class FakeConfirmer:
    """Answers with planted ratios.

    Attributes:
        ratios: of the time of the second over that of the first, by both names; 1.5 without.
        asked: pairs of names, in order.
        wrong: the candidate that computes something else in a fresh process.
    """

    ratios: dict[tuple[str, str], float] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    wrong: str = ""

    def __call__(
        self,
        pick: Point,
        other: Point,
        artifacts: tuple[Artifact | None, Artifact | None],
        *,
        most_s: float,
    ) -> ConfirmationRecord:
        """As `Confirmer.__call__`."""
        del artifacts, most_s
        self.asked.append((pick.name, other.name))
        if pick.name == self.wrong:
            raise WrongOutput("planted: wrong output in a fresh process")
        ratio = self.ratios.get((pick.name, other.name), 1.5)
        verdict = "SLOWER" if ratio > 1.01 else "FASTER" if ratio < 0.99 else "SAME"
        return ConfirmationRecord(
            other=other.name,
            rounds_ns=(((MS,), (round(ratio * MS),)),),
            ratio=(ratio, 0.99 * ratio, 1.01 * ratio),
            verdict=verdict,
        )


class Cut(Deadline):
    """Is interrupted after so many saved steps; None for never."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self.left = after

    def step(self) -> None:
        """A step was saved."""
        if self.left is not None:
            self.left -= 1
            self.interrupted = self.interrupted or self.left <= 0


@dataclass
class Simulation:
    """A search on a simulated machine.

    Attributes:
        weights: of the network, for the request alone.
        points: candidates, besides a baseline.
        plans: what is planted, by name.
        asked: arguments of `checked_request`.
    """

    weights: Weights
    points: Sequence[Point]
    plans: dict[str, Plan]
    asked: dict[str, Any] = field(default_factory=dict)
    confirmer: FakeConfirmer = field(default_factory=FakeConfirmer)
    load: Callable[[int], Load] = lambda _: QUIET
    refusal: Callable[[Point], Refusal | None] = lambda _: None
    seed: int = 1
    rules: Rules = field(default_factory=Rules)
    said: list[str] = field(default_factory=list)
    at_save: Callable[[], None] = lambda: None
    at_say: Callable[[str], None] = lambda _: None
    artifacts: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        deadline: Deadline | None = None,
        earlier: TuneRecord | None = None,
    ) -> Tuned:
        """Search, or go on with ``earlier``."""
        machine = Machine(self.seed)
        monkeypatch.setattr("resnext.timing.clock.now_ns", machine.read)
        monkeypatch.setattr("resnext.timing.clock.SETTLE_S", 0.0)
        asked: dict[str, Any] = {"goal": "latency"} | self.asked
        self.request = request = checked_request(self.weights, **asked)
        board = Board(request)
        for point in (Point("torch"), *self.points):
            board.add(point)
        base = TuneRecord(
            created="2026-11-28T12:00:00+00:00",
            model=None,
            weights=WeightsRecord.model_validate(self.weights.provenance),
            goal=request.goal,
            gates=request.gates,
            spent_s=0.0,
            seed=request.seed,
            threads=1,
            margin=request.margin,
            environment=HERE,
            complete=False,
            candidates=(),
        )
        if earlier is not None:
            restore(board, earlier, base)
        self.workshop = FakeWorkshop(machine, self.plans, request, artifacts=self.artifacts)
        self.saved = 0

        def save() -> None:
            self.saved += 1
            self.at_save()
            if isinstance(deadline, Cut):
                deadline.step()

        def say(line: str) -> None:
            self.said.append(line)
            self.at_say(line)

        self.search = Search(
            request,
            board,
            self.workshop,
            self.confirmer,
            refusal=self.refusal,
            deadline=deadline,
            say=say,
            save=save,
            rules=self.rules,
            meter=SimulatedMeter(machine, self.load),
        )
        self.search.run()
        record = self.search.recorded(
            base, spent_s=1.0, complete=self.search.ended != "interrupted"
        )
        return Tuned.model_validate_json(record.model_dump_json())
