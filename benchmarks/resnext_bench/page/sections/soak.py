"""Memory and latency over the minutes of a soak."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, legend, xy
from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import Entry, entries, series
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import Scale, linear, number
from resnext_bench.record import RunRecord
from resnext_bench.scenarios.growth import Growth
from resnext_bench.scenarios.soak_record import SoakRecord

_HEIGHT = 180.0
#: Points of a line and of all, so that hours take no more room than minutes.
_MOST_OF_LINE, _MOST = 240, 3000


def section(run: RunRecord) -> Section | None:
    """The lines; None if no row was soaked."""
    rows = [(entry, entry.row.soak) for entry in entries(run) if entry.row.soak is not None]
    if not rows:
        return None
    index = {entry.name: place for place, (entry, _) in enumerate(rows)}
    if len({entry.row.batch for entry, _ in rows}) == 1:  # as in the other charts
        index = {entry.name: series(entries(run))[entry.series] for entry, _ in rows}
    memory = [(index[e.name], e, s.at_s, _added(s.host_bytes)) for e, s in rows if s.host_bytes]
    latency = [(index[e.name], e, s.at_s, s.latency) for e, s in rows]
    body = join(
        legend(index, list(index)),
        _chart("soak-memory", "Memory since the first window", "MB", memory) if memory else None,
        _chart("soak-latency", "Latency over its median", "times the median", latency),
        _table(rows),
    )
    minutes = max(soak.lasted_s for _, soak in rows) / 60
    note = (
        f"{minutes:.3g} minutes of every row at mixed batch sizes. Growth is from block to block,"
        " after the first fifth, with its 95 % interval; above zero it goes on."
    )
    return Section("soak", "Soak", body, note)


def _added(sizes: Sequence[int]) -> list[float]:
    return [(size - sizes[0]) / 1e6 for size in sizes]


_Line = tuple[int, Entry, Sequence[float], Sequence[float]]


def _chart(name: str, title: str, unit: str, lines: Sequence[_Line]) -> Markup:
    y = linear(value for *_, values in lines for value in values)
    x = Scale(0, max(at_s[-1] for *_, at_s, _ in lines) / 60)
    parts, most = [], max(20, min(_MOST_OF_LINE, _MOST // len(lines)))
    for index, entry, at_s, values in lines:
        step = -(-len(values) // most)
        points = [
            (x.fraction(at / 60), _HEIGHT * (1 - y.fraction(value)))
            for at, value in zip(at_s[::step], values[::step], strict=True)
        ]
        line = marks.line(points, _HEIGHT, marks.series_class(index))
        end = marks.mark(index, f"{100 * points[-1][0]:.2f}%", points[-1][1], entry.name)
        parts.append(marks.group(line, end, row=entry.number))
    words = "; ".join(f"{entry.name} ends at {number(v[-1])}" for _, entry, _, v in lines)
    axes = Axis(x, "minutes"), Axis(y, unit)
    chart = xy(f"{name}-chart", title, f"{unit}: {words}.", *axes, _HEIGHT, *parts)
    return join(tag("h3", title), chart)


def _table(rows: Sequence[tuple[Entry, SoakRecord]]) -> Markup:
    headings = ("row", "runs", "memory MB/min", "device MB/min", "latency in all, %", "outputs")
    cells = [
        [
            entry.name,
            f"{soak.runs:,}",
            _bytes(soak.host_growth),
            _bytes(soak.device_growth),
            _latency(soak.latency_growth),
            "equal" if soak.changed_s is None else f"changed after {number(soak.changed_s)} s",
        ]
        for entry, soak in rows
    ]
    numbers = [entry.number for entry, _ in rows]
    return table("Growth in a soak", headings, cells, left=(0, 5), numbers=numbers)


def _bytes(growth: Growth | None) -> str:
    if growth is None:
        return "n/a"
    estimate, low, high = (value / 1e6 for value in growth.per_minute)
    return f"{estimate:+.3g} ({low:+.3g} to {high:+.3g})"


def _latency(growth: Growth | None) -> str:
    if growth is None:
        return "n/a"
    estimate, low, high = (100 * math.expm1(value) for value in growth.total)
    return f"{estimate:+.1f} ({low:+.1f} to {high:+.1f})"
