"""Latency against throughput, with the rows that no other one beats at both."""

from __future__ import annotations

from collections.abc import Sequence

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, legend, xy
from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, entries, series, valid
from resnext_bench.page.markup import join
from resnext_bench.page.scales import logarithmic, number
from resnext_bench.record import RunRecord

_HEIGHT = 260.0


def section(run: RunRecord) -> Section | None:
    """The chart; None below two valid rows."""
    rows = valid(run)
    if len(rows) < 2:
        return None
    x = logarithmic(entry.ms for entry in rows)
    y = logarithmic(entry.images_per_s for entry in rows)
    index = series(entries(run))
    front = pareto_front(rows)
    corners: list[tuple[float, float]] = []
    for entry in front:
        place = (x.fraction(entry.ms), _HEIGHT * (1 - y.fraction(entry.images_per_s)))
        if corners:
            corners.append((place[0], corners[-1][1]))
        corners.append(place)
    corners.append((1.0, corners[-1][1]))
    points = []
    for entry in rows:
        at, down = x.percent(entry.ms), _HEIGHT * (1 - y.fraction(entry.images_per_s))
        hint = f"{entry.name}\n{number(entry.ms)} ms, {number(entry.images_per_s)} images/s"
        if entry in front:
            hint += "\non the front"
        points.append(
            marks.group(
                marks.mark(index[entry.series], at, down, hint),
                marks.label(str(entry.row.batch), at, down - 8, "middle", "small"),
                row=entry.number,
            )
        )
    chart = xy(
        "trade-off-chart",
        "Latency against throughput",
        "On the front: " + ", ".join(entry.name for entry in front) + ".",
        Axis(x, "latency, ms"),
        Axis(y, "images/s"),
        _HEIGHT,
        marks.line(corners, _HEIGHT, "muted dashed"),
        *points,
    )
    note = (
        "Better is up and to the left; the number at a point is its batch size. No valid row beats"
        " one on the dashed front at both."
    )
    body = join(legend(index, {entry.series for entry in rows}), chart)
    return Section("trade-off", "Latency and throughput", body, note, wide=False)


def pareto_front(rows: Sequence[Entry]) -> list[Entry]:
    """The rows that no other one beats at both latency and throughput, the quickest first."""
    front: list[Entry] = []
    for entry in sorted(rows, key=lambda one: (one.ms, -one.images_per_s)):
        if not front or entry.images_per_s > front[-1].images_per_s:
            front.append(entry)
    return front
