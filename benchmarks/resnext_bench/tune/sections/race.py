"""The race: how each candidate stood to the pick after each round, until it was dropped."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, legend, xy
from resnext_bench.page.document import Section
from resnext_bench.page.markup import Markup, join
from resnext_bench.page.scales import Scale
from resnext_bench.tune import amounts
from resnext_bench.tune.record import Goal, TuneRecord
from resnext_bench.tune.standing import medians
from resnext_bench.tune.verdict import race

from .points import Entry, entries

_HEIGHT = 300.0
#: The axis shows at most this ratio: what is slower is at its end.
_MOST = 2.0


@dataclass(frozen=True)
class _Lane:
    """One candidate in the race.

    Attributes:
        row: the candidate.
        index: its color and shape.
        rounds: indices of the rounds that it and the pick were in, from 0.
        ratios: its time over the pick's, or without one the fastest's, in each of them.
        so_far: the median of the ratios up to each.
    """

    row: Entry
    index: int
    rounds: Sequence[int]
    ratios: Sequence[float]
    so_far: Sequence[float]


def section(record: TuneRecord) -> Section | None:
    """The chart; None if no two candidates were in a round together."""
    ran = [row for row in entries(record) if medians(row.candidate, record.goal)]
    leader = _leader(record, ran)
    if leader is None:
        return None
    who = "fastest" if record.pick is None else "pick"
    base = medians(leader.candidate, record.goal)
    shared = {at for row in ran if row is not leader for at in medians(row.candidate, record.goal)}
    # The leader's times may have been proven alone, after the race.
    base = {at: ns for at, ns in base.items() if at in shared}
    lanes = [
        lane
        for index, row in enumerate(ran)
        if (lane := _lane(row, index, record.goal, base)).ratios
    ]
    if len(lanes) < 2:
        return None
    y = _scale([ratio for lane in lanes for ratio in lane.so_far])
    last = max(lane.rounds[-1] for lane in lanes)
    x = Scale(0.5, last + 1.5)
    unit = "an image" if record.goal == "throughput" else "a run"
    chart = xy(
        "race-chart",
        f"Each candidate against the {who}, round by round",
        _description(lanes, last),
        Axis(x, "round", lambda value: f"{value:g}", _ticks(last + 1)),
        Axis(y, f"time of {unit}, over the {who}'s", lambda value: f"{value:g}x"),
        _HEIGHT,
        *(_drawn(lane, x, y, last, who) for lane in lanes),
    )
    note = (
        f"The {who} is {leader.name}, the line at 1x. A dot is a round, and the line what the"
        " rounds so far tell: the median of their ratios. It ends where the race dropped the"
        " candidate; its reason compares it with the leader of that time, and after few rounds"
        " tells by how much it was slower at least."
        f" What is above {_MOST:g}x is at the edge. {race(record).capitalize()}."
    )
    key = legend({lane.row.name: lane.index for lane in lanes}, {lane.row.name for lane in lanes})
    return Section("race", "The race", join(chart, key), note)


def _leader(record: TuneRecord, ran: Sequence[Entry]) -> Entry | None:
    """The pick, or without one the fastest."""
    for row in ran:
        if row.name == record.pick:
            return row

    def median(row: Entry) -> float:
        return statistics.median(medians(row.candidate, record.goal).values())

    return min(ran, key=median, default=None)


def _lane(row: Entry, index: int, goal: Goal, base: dict[int, float]) -> _Lane:
    rounds, ratios, so_far = [], [], []
    for at, ns in medians(row.candidate, goal).items():
        if at in base:
            rounds.append(at)
            ratios.append(ns / base[at])
            so_far.append(statistics.median(ratios))
    return _Lane(row, index, rounds, ratios, so_far)


def _scale(ratios: Sequence[float]) -> Scale:
    low, high = min(ratios), min(_MOST, max(ratios))
    return Scale(max(1 / _MOST, min(0.97, low / 1.02)), max(1.05, high * 1.02), log=True)


def _ticks(rounds: int) -> list[int]:
    step = max(1, -(-rounds // 12))
    return [*range(step, rounds + 1, step)]


def _description(lanes: Sequence[_Lane], last: int) -> str:
    stayed = sum(not _left(lane, last) for lane in lanes)
    dropped = sorted(
        (lane for lane in lanes if _left(lane, last)), key=lambda lane: lane.rounds[-1]
    )
    ends = "".join(
        f" {lane.row.name} left after round {lane.rounds[-1] + 1} at"
        f" {amounts.times(lane.so_far[-1])}x."
        for lane in dropped
    )
    return f"{stayed} of {len(lanes)} were in it to round {last + 1}.{ends}"


def _left(lane: _Lane, last: int) -> bool:
    """Whether it was dropped; the baseline is measured in a few rounds, and never is."""
    return lane.rounds[-1] < last and lane.row.candidate.outcome != "baseline"


def _drawn(lane: _Lane, x: Scale, y: Scale, last: int, who: str) -> Markup:
    def places(ratios: Sequence[float]) -> list[tuple[float, float]]:
        return [
            (x.fraction(at + 1), _HEIGHT * (1 - y.fraction(ratio)))
            for at, ratio in zip(lane.rounds, ratios, strict=True)
        ]

    points, color = places(lane.so_far), marks.series_class(lane.index)
    one, end = lane.row.candidate, lane.rounds[-1]
    ratio = amounts.times(lane.so_far[-1])
    left = f"{'left after' if _left(lane, last) else 'in it to'} round {end + 1}"
    known = f"{ratio}x the {who}'s time after {len(lane.rounds)} rounds"
    hint = f"{one.name}\n{known}, {left}\n{one.outcome}"
    line = [marks.line(points, _HEIGHT, color)] if points[1:] else []
    rounds = marks.dots(places(lane.ratios), _HEIGHT, f"fine {color}")
    place = x.percent(end + 1)
    mark = marks.mark(lane.index, place, points[-1][1], hollow=one.outcome not in _STAYED)
    return marks.group(rounds, *line, mark, row=lane.row.number, hint=hint)


_STAYED = ("picked", "same")
