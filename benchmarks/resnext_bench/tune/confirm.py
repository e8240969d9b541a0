"""The pick measured again beside another candidate, each in a fresh process: what won a race may
have won by luck, or by what a process does to the next one.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.errors import GateFailed
from resnext.timing.change import LEAST_ROUNDS, paired
from resnext.verify.parity import Parity
from resnext_bench.ab.process import Worker
from resnext_bench.ab.protocol import Job, Opened
from resnext_bench.ab.record import Round
from resnext_bench.ab.rounds import Schedule, measure_rounds, undisturbed
from resnext_bench.deadline import Deadline

from .board import proven_ns
from .record import ConfirmationRecord
from .request import Request, threads_of
from .space import BASELINE, Point
from .standing import judged

#: Parity of a candidate's logits for all seeded images.
Judge: TypeAlias = Callable[[Point, Artifact | None, "NDArray[Any]"], Parity]

#: Undisturbed rounds of each pair, and timed seconds of each of the two over them.
ROUNDS, DURATION_S = LEAST_ROUNDS + 2, 2.5
_WARMUP_S = 0.3


class WrongOutput(GateFailed):
    """The pick computes something else in a fresh process."""


class Confirmer(Protocol):
    """Measures two candidates against each other."""

    def __call__(
        self,
        pick: Point,
        other: Point,
        artifacts: tuple[Artifact | None, Artifact | None],
        *,
        most_s: float,
    ) -> ConfirmationRecord:
        """Measure ``pick`` and ``other``.

        Args:
            pick: the candidate that is to be confirmed.
            other: what it is held against.
            artifacts: what they run; None for the baseline.
            most_s: seconds after which no further round begins.

        Raises:
            WrongOutput: the output of the pick's last timed run is wrong.
            ResnextError: a process failed, or time ran out before the first round.
        """


class FreshProcesses:
    """The `Confirmer` that starts a process for each candidate; the two take turns in rounds.

    Where time is left for no more than earlier processes took to start, none is started.

    Args:
        request: weights, device, goal.
        judge: parity of a candidate's logits for the seeded images.
        images: number of these.
        deadline: no round begins after it.
        say: called with one line at every step.
    """

    def __init__(
        self,
        request: Request,
        judge: Judge,
        images: int,
        deadline: Deadline,
        say: Callable[[str], None],
    ) -> None:
        self._request, self._deadline, self._say = request, deadline, say
        self._judge, self._images = judge, images
        self._start_s = 0.0

    def __call__(
        self,
        pick: Point,
        other: Point,
        artifacts: tuple[Artifact | None, Artifact | None],
        *,
        most_s: float,
    ) -> ConfirmationRecord:
        """As `Confirmer.__call__`."""
        both, began_s = (pick, other), time.monotonic()
        if self._deadline.left_s() <= self._start_s:
            raise self._deadline.not_measured()
        opened: list[Opened] = []
        with ExitStack() as stack:
            self._say(f"starting fresh processes for {pick.name} and {other.name}")
            first, second = (stack.enter_context(Worker(point.name)) for point in both)
            for worker, point, artifact in zip((first, second), both, artifacts, strict=True):
                if self._deadline.over():
                    raise self._deadline.not_measured()
                self._say(f"opening {point.name} in a fresh process")
                opened.append(worker.open(self._job(point, artifact)))
            self._start_s = max(self._start_s, time.monotonic() - began_s)
            on_cpu = any(not each.device.startswith("cuda") for each in opened)
            rounds = measure_rounds(
                (first, second),
                (opened[0].estimate_ns, opened[1].estimate_ns),
                Schedule(
                    ROUNDS,
                    DURATION_S,
                    self._request.seed,
                    threads_of(pick.threads) if on_cpu else 1,
                ),
                over=lambda: self._deadline.interrupted or time.monotonic() >= began_s + most_s,
                say=self._say,
            )
            if not rounds:
                raise self._deadline.not_measured()
            runs = -(-self._images // pick.batch)
            logits = first.logits(runs * opened[0].estimate_ns / 1e9)
        parity = self._judge(pick, artifacts[0], logits)
        if not parity.passed:
            raise WrongOutput(f"wrong output in a fresh process: {'; '.join(parity.failures)}")
        return confirmation(pick, other, rounds, self._request)

    def _job(self, point: Point, artifact: Artifact | None) -> Job:
        return Job.of(
            self._request.weights,
            artifact,
            backend=point.backend,
            precision=point.precision,
            batch=point.batch,
            images=self._images,
            seed=self._request.seed,
            device=self._request.device,
            threads=threads_of(point.threads),
            warmup_s=_WARMUP_S,
            streams=point.streams,
            memory_format="channels-last" if point.backend == BASELINE else "auto",
        )


def confirmation(
    pick: Point, other: Point, rounds: Sequence[Round], request: Request
) -> ConfirmationRecord:
    """What ``rounds`` of both say: the undisturbed ones, or all if too few are for an interval."""
    kept = undisturbed(rounds)
    if len(kept) < LEAST_ROUNDS:
        kept = list(rounds)
    per = [request.per(point.batch, point.streams) for point in (pick, other)]
    logs = []
    for each in kept:
        mine, its = (
            max(1.0, statistics.median(times)) / share
            for times, share in zip(each.times_ns, per, strict=True)
        )
        logs.append(math.log(its / mine))
    change = paired(logs, request.margin)
    # As in a race, an interval is enough; `paired` asks for more rounds.
    verdict = "CANNOT TELL" if change.ratio is None else judged(change.ratio, request.margin)
    return ConfirmationRecord(
        other=other.name,
        rounds_ns=tuple(each.times_ns for each in kept),
        ratio=None if change.ratio is None else tuple(change.ratio),
        verdict=verdict,
        p99_ns=proven_ns([time for each in kept for time in each.times_ns[0]], 99),
    )
