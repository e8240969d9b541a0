"""Latency against throughput, with the rows that no other one beats at both."""

from __future__ import annotations

from resnext_bench.page.chart import Axis, legend
from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, entries, series, valid
from resnext_bench.page.markup import join
from resnext_bench.page.scales import logarithmic, number
from resnext_bench.page.scatter import Point, scatter
from resnext_bench.pareto import pareto_front
from resnext_bench.record import RunRecord


def section(run: RunRecord) -> Section | None:
    """The chart; None below two valid rows."""
    rows = valid(run)
    if len(rows) < 2:
        return None
    index = series(entries(run))
    costs = [(entry.ms, -entry.images_per_s) for entry in rows]
    on_front = dict(zip((entry.number for entry in rows), pareto_front(costs), strict=True))
    points = [_point(entry, index[entry.series], on_front[entry.number]) for entry in rows]
    named = sorted((entry for entry in rows if on_front[entry.number]), key=lambda one: one.ms)
    chart = scatter(
        "trade-off-chart",
        "Latency against throughput",
        "On the front: " + ", ".join(entry.name for entry in named) + ".",
        Axis(logarithmic(entry.ms for entry in rows), "latency, ms"),
        Axis(logarithmic(entry.images_per_s for entry in rows), "images/s"),
        points,
    )
    note = (
        "Better is up and to the left; the number at a point is its batch size. No valid row beats"
        " one on the dashed front at both."
    )
    body = join(legend(index, {entry.series for entry in rows}), chart)
    return Section("trade-off", "Latency and throughput", body, note, wide=False)


def _point(entry: Entry, series: int, on_front: bool) -> Point:
    hint = f"{entry.name}\n{number(entry.ms)} ms, {number(entry.images_per_s)} images/s"
    if on_front:
        hint += "\non the front"
    return Point(entry.ms, entry.images_per_s, series, str(entry.row.batch), hint, entry.number)
