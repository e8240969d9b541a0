"""Interleaved rounds of two workers: only one of them runs at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from resnext.progress import Amount, Step
from resnext.timing.clock import iterations_for
from resnext.timing.interleave import shuffled

from .protocol import Visit
from .record import Round

#: Rounds are repeated until enough are undisturbed, up to this multiple of the requested number.
MOST_REPEATS = 3
#: Minimum number of timed runs of a visit.
_LEAST_RUNS = 5
_NAMES: tuple[Literal["A", "B"], Literal["A", "B"]] = ("A", "B")


class Visitable(Protocol):
    """A worker, or a stand-in for one."""

    def visit(self, iterations: int, expected_s: float) -> Visit:
        """Time ``iterations`` runs, which take about ``expected_s``."""


@dataclass(frozen=True)
class Schedule:
    """How rounds are measured.

    Attributes:
        rounds: number of undisturbed ones.
        duration_s: timed seconds of each arm, over these rounds.
        seed: of the order of visits.
        threads: processors that an arm needs for itself.
    """

    rounds: int
    duration_s: float
    seed: int
    threads: int


def measure_rounds(
    workers: tuple[Visitable, Visitable],
    estimates_ns: tuple[float, float],
    schedule: Schedule,
    *,
    pair: int = 0,
    over: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Round]:
    """Measure rounds until enough are undisturbed.

    Args:
        workers: of A and B, warm.
        estimates_ns: time of one run of each.
        schedule: how many rounds, of what length.
        pair: index of the pair of processes.
        over: whether no further round may begin.
        say: called with one line at every round.

    Returns:
        All rounds in order. Fewer undisturbed ones than requested if time ran out, or if
        `MOST_REPEATS` times as many were not enough.
    """
    visit_ns = schedule.duration_s * 1e9 / schedule.rounds
    runs = [iterations_for(visit_ns, estimate, least=_LEAST_RUNS) for estimate in estimates_ns]
    order = shuffled(schedule.seed + pair)
    measured: list[Round] = []
    amount = Amount(total=schedule.rounds)
    while (
        len(undisturbed(measured)) < schedule.rounds
        and len(measured) < MOST_REPEATS * schedule.rounds
        and not over()
    ):
        index = len(measured)
        quiet = len(undisturbed(measured))
        disturbed = f", {index - quiet} disturbed" if index > quiet else ""
        amount.done = quiet
        say(Step(f"round {quiet + 1}/{schedule.rounds}{disturbed}", amount))
        visits = {
            arm: workers[arm].visit(runs[arm], runs[arm] * estimates_ns[arm] / 1e9)
            for arm in order((0, 1), index)
        }
        first = next(iter(visits))
        disturbances = dict.fromkeys(
            reason
            for visit in (visits[0], visits[1])
            for reason in visit.load.disturbances(schedule.threads)
        )
        measured.append(
            Round(
                pair=pair,
                first=_NAMES[first],
                times_ns=(visits[0].times_ns, visits[1].times_ns),
                loads=(visits[0].load, visits[1].load),
                disturbances=tuple(disturbances),
            )
        )
    return measured


def undisturbed(measured: Sequence[Round]) -> list[Round]:
    """The rounds that count."""
    return [each for each in measured if not each.disturbances]
