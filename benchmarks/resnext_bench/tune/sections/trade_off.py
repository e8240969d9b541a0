"""Latency against throughput of the candidates that were timed."""

from __future__ import annotations

from resnext_bench.page.chart import Axis, legend
from resnext_bench.page.document import Section
from resnext_bench.page.markup import join
from resnext_bench.page.scales import logarithmic
from resnext_bench.page.scatter import Point, scatter
from resnext_bench.tune import amounts
from resnext_bench.tune.front import may_be_on_front
from resnext_bench.tune.record import TuneRecord

from .points import Entry, entries, series


def section(record: TuneRecord) -> Section | None:
    """The chart; None below two candidates with times."""
    rows = [row for row in entries(record) if _is_timed(row)]
    if len(rows) < 2:
        return None
    index = series(entries(record))
    points = [_point(row, index[row.series]) for row in rows]
    chart = scatter(
        "trade-off-chart",
        "Latency against throughput",
        on_front(record),
        Axis(logarithmic(point.x for point in points), "p50 of a batch, ms"),
        Axis(logarithmic(point.y for point in points), "images/s"),
        points,
    )
    note = (
        "Better is up and to the left; the number at a point is its batch size. Filled points are"
        " on the front: no other candidate that met the gates is as good at p50, p99, images/s,"
        " size and accuracy, and better at one of them. The dashed line is the front of the two"
        " that are drawn. Crosses cannot be chosen: they missed a gate, or are the baseline."
    )
    body = join(legend(index, {row.series for row in rows}), chart)
    return Section("trade-off", "Latency and throughput", body, note, wide=False)


def on_front(record: TuneRecord) -> str:
    """The front, in words."""
    names = [one.name for one in record.candidates if one.on_front]
    return f"On the front: {', '.join(names)}." if names else "No candidate is on the front."


def _is_timed(row: Entry) -> bool:
    one = row.candidate
    return all(value is not None and value > 0 for value in (one.p50_ns, one.images_per_s))


def _point(row: Entry, series: int) -> Point:
    one = row.candidate
    assert one.p50_ns is not None
    assert one.images_per_s is not None
    speed = f"{amounts.milliseconds(one.p50_ns)} ms, {amounts.rate(one.images_per_s)} images/s"
    parts = [one.name, speed, *map(amounts.gate, one.gates)]
    parts += ["on the front"] if one.on_front else []
    return Point(
        one.p50_ns / 1e6,
        one.images_per_s,
        series,
        str(one.batch),
        "\n".join(parts),
        row.number,
        counts=may_be_on_front(one),
        hollow=not one.on_front,
    )
