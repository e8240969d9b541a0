"""Every round of every row, around the row's median: what the intervals come from."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from resnext_bench.page import marks
from resnext_bench.page.chart import GAP, Axis, Strip, strips
from resnext_bench.page.document import Section
from resnext_bench.page.entries import measured
from resnext_bench.page.markup import Markup, join
from resnext_bench.page.scales import Scale, number
from resnext_bench.record import RunRecord
from resnext_bench.stats import Stats, derive, quiet

_HEIGHT = 30.0
#: Timed runs that are drawn, of all rows and of one, so that a page stays small.
_MOST, _MOST_OF_ROW = 8_000, 400
#: The axis shows at least this much around the median, and at most `_WIDEST`, percent.
_LEAST, _WIDEST = 2.0, 40.0


@dataclass(frozen=True)
class _Rounds:
    """Rounds of one row, nanoseconds, and what disturbed some of them."""

    name: str
    rounds: Sequence[Sequence[int]]
    disturbed: Sequence[int]
    stats: Stats
    number: int | None
    why: Mapping[int, Sequence[str]]

    def percent(self, ns: float) -> float:
        """From the median."""
        return 100 * (ns / (self.stats.median_ns or 1) - 1)


def section(run: RunRecord) -> Section | None:
    """The strip plot; None if nothing was measured."""
    rows = list(_rows(run))
    if not rows:
        return None
    scale = _scale(rows)
    most = max(20, min(_MOST_OF_ROW, _MOST // len(rows)))
    drawn = [_strip(one, scale, most) for one in rows]
    back = marks.upright(scale, 0, _HEIGHT + GAP, "zero", -GAP)
    disturbed = sum(len(one.disturbed) for one in rows)
    widest = max(rows, key=lambda one: one.stats.precision or 0)
    words = f"The least certain median is that of {widest.name}: {_interval(widest.stats)}. "
    words += f"{disturbed} disturbed rounds are left out." if disturbed else "No disturbed rounds."
    axis = Axis(
        scale,
        "time of a run, from the row's median",
        lambda value: f"{value:+g} %" if value else "0 %",
    )
    chart = strips("rounds-chart", "Rounds of each row", words, axis, drawn, _HEIGHT, back)
    note = (
        "Each line of dots is a round, the first on top: small dots are timed runs, the large one"
        " is their median. "
    )
    if any(one.stats.median_low_ns is not None for one in rows):
        note += "The band is the 95 % interval of the row's median. "
    if disturbed:
        note += "Crosses are rounds that something else disturbed; they do not count. "
    return Section("rounds", "Rounds", chart, note + "What lies beyond the axis is at its end.")


def _rows(run: RunRecord) -> Iterator[_Rounds]:
    for entry in measured(run):
        timing = entry.timing
        if any(timing.rounds_ns):
            why = entry.row.disturbances
            yield _Rounds(
                entry.name, timing.rounds_ns, timing.disturbed, timing.stats, entry.number, why
            )
    control = run.control
    if control is not None and any(control.rounds_ns):
        left = list(quiet(control.rounds_ns, control.disturbed).values())
        stats = derive(left or [burst for burst in control.rounds_ns if burst], control.batch)
        name = " ".join(filter(None, (control.backend, control.variant)))
        name += f" batch {control.batch}, measured again (control)"
        yield _Rounds(name, control.rounds_ns, control.disturbed, stats, None, {})


def _scale(rows: Sequence[_Rounds]) -> Scale:
    values = sorted(
        one.percent(sample)
        for one in rows
        for index, burst in enumerate(one.rounds)
        if burst and index not in one.disturbed
        for sample in (min(burst), statistics.median(burst), sorted(burst)[int(0.9 * len(burst))])
    ) or [0.0]
    low, high = values[int(0.02 * len(values))], values[int(0.98 * (len(values) - 1))]
    low, high = max(-_WIDEST, min(low, -_LEAST)), min(_WIDEST, max(high, _LEAST))
    room = 0.08 * (high - low)
    return Scale(low - room, high + room)


def _strip(one: _Rounds, scale: Scale, most: int) -> Strip:
    count = len(one.rounds)
    runs, medians, crosses = [], [], []
    for index, burst in enumerate(one.rounds):
        if not burst:
            continue
        y = 2 + (_HEIGHT - 4) * (index + 0.5) / count
        middle = one.percent(statistics.median(burst))
        if index in one.disturbed:
            crosses.append(marks.cross(scale.percent(middle), y))
            continue
        medians.append((scale.fraction(middle), y))
        runs += [(scale.fraction(one.percent(ns)), y) for ns in _spread(burst, most // count)]
    stats = one.stats
    parts: list[Markup] = []
    if stats.median_low_ns is not None and stats.median_high_ns is not None:
        ends = one.percent(stats.median_low_ns), one.percent(stats.median_high_ns)
        parts.append(marks.band(scale, *ends, _HEIGHT, "noise"))
    parts += [
        marks.dots(runs, _HEIGHT, "fine muted"),
        marks.dots(medians, _HEIGHT, "accent"),
        *crosses,
    ]
    reasons = {reason for why in one.why.values() for reason in why}
    hint = "\n".join((one.name, _interval(stats), f"{count} rounds, {stats.count} runs"))
    hint += "".join(f"\ndisturbed: {reason}" for reason in sorted(reasons)[:3])
    return Strip(one.name, _interval(stats), join(*parts), one.number, hint)


def _spread(burst: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the samples, the fastest and the slowest among them."""
    ordered, most = sorted(burst), max(3, most)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(index * (len(ordered) - 1) / (most - 1))] for index in range(most)]


def _interval(stats: Stats) -> str:
    precision = "" if stats.precision is None else f" \u00b1{100 * stats.precision:.1f} %"
    return f"{number(stats.median_ns / 1e6)} ms{precision}"
