"""The columns of the table of candidates: what each shows, and which a narrow terminal drops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import amounts
from .record import CandidateRecord, Goal

#: What is on the front has this.
ON_FRONT = "*"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: with the unit.
        meaning: of its values.
        cell: its text; ``-`` for what is unknown.
        left: whether its cells are aligned to the left.
    """

    heading: str
    meaning: str
    cell: Callable[[CandidateRecord], str]
    left: bool = False


def _ratio(one: CandidateRecord) -> str:
    return "-" if one.ratio is None else amounts.times(one.ratio[0])


def _interval(one: CandidateRecord) -> str:
    return "-" if one.ratio is None else " to ".join(map(amounts.times, one.ratio[1:]))


def _p99(one: CandidateRecord) -> str:
    return "-" if one.p99_ns is None else f"\u2264 {amounts.milliseconds(one.p99_ns)}"


def _agrees(one: CandidateRecord) -> str:
    if one.accuracy is not None:
        return f"{one.accuracy.agreement:.2%}"
    known = one.parity is not None and one.parity.top1 is not None
    return f"{one.parity.top1:.0%}" if known else "-"  # type: ignore[union-attr]  # known


#: In the order of the table.
COLUMNS = (
    Column("candidate", "backend, precision and how it is run", lambda one: one.name, left=True),
    Column(
        "outcome",
        "picked; same: as fast as the pick within the margin; slower: the race dropped it; gate:"
        " it missed one; refused: it cannot run so here; failed: with an error; not-measured: time"
        " was up; baseline: eager PyTorch, never chosen",
        lambda one: one.outcome,
        left=True,
    ),
    Column(
        "front",
        f"{ON_FRONT}: no other one that met the gates is as good at p50, p99, images/s, MB and"
        " top-1, and better at one of them",
        lambda one: ON_FRONT if one.on_front else "-",
        left=True,
    ),
    Column(
        "images/s", "batch times streams over the p50", lambda one: amounts.rate(one.images_per_s)
    ),
    Column("p50 ms", "median of a run, a batch", lambda one: amounts.milliseconds(one.p50_ns)),
    Column("p99 ms", "upper bound at 99 % confidence, from 662 runs on", _p99),
    Column("time/pick", "its time over the pick's, over the rounds that both were in", _ratio),
    Column("95 % interval", "of time/pick, from six rounds on", _interval),
    Column("MB", "size of the file", lambda one: amounts.megabytes(one.size_bytes)),
    Column(
        "top-1",
        "share of the labeled images that are right",
        lambda one: "-" if one.accuracy is None else f"{one.accuracy.top1:.2%}",
    ),
    Column("agrees", "share of images with PyTorch's first class", _agrees),
    Column(
        "rounds",
        "of the race that it was in",
        lambda one: str(len(one.rounds_ns)) if one.rounds_ns else "-",
    ),
    Column(
        "build s",
        "time to make the file",
        lambda one: "-" if one.build_s is None else f"{one.build_s:.1f}",
    ),
)
HEADINGS = tuple(column.heading for column in COLUMNS)
LEFT = tuple(column.heading for column in COLUMNS if column.left)
#: The column of a goal, which always stays, as the candidate does.
OF_GOAL = {"latency": "p50 ms", "throughput": "images/s"}
#: Columns that a narrow terminal does without, the first to go first.
_DROPPED_FIRST = (
    "build s",
    "rounds",
    "agrees",
    "95 % interval",
    "top-1",
    "MB",
    "p99 ms",
    "p50 ms",
    "images/s",
    "front",
    "time/pick",
    "outcome",
)


def dropped_first(goal: Goal) -> list[str]:
    """The columns in the order of leaving."""
    return [heading for heading in _DROPPED_FIRST if heading != OF_GOAL[goal]]


def cells(one: CandidateRecord) -> tuple[str, ...]:
    """The cells of one candidate."""
    return tuple(column.cell(one) for column in COLUMNS)
