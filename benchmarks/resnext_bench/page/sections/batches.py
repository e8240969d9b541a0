"""Throughput against batch size."""

from __future__ import annotations

from collections import defaultdict

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, legend, xy
from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, entries, series, valid
from resnext_bench.page.markup import join
from resnext_bench.page.scales import linear, logarithmic, number
from resnext_bench.record import RunRecord

_HEIGHT = 260.0
#: Above this ratio of the largest to the smallest value, an axis is logarithmic.
WIDE_RATIO = 12


def section(run: RunRecord) -> Section | None:
    """The chart; None if no row was measured at two batch sizes."""
    rows = valid(run)
    lines: dict[str, list[Entry]] = defaultdict(list)
    for entry in rows:
        lines[entry.series].append(entry)
    if all(len({entry.row.batch for entry in line}) < 2 for line in lines.values()):
        return None
    speeds = [entry.images_per_s for entry in rows]
    batches = sorted({entry.row.batch for entry in rows})
    x = logarithmic(batches)
    wide = max(speeds) > WIDE_RATIO * min(speeds)
    y = logarithmic(speeds) if wide else linear(speeds, zero=True)
    index, parts, hints = series(entries(run)), [], []
    for name, line in lines.items():
        line.sort(key=lambda entry: entry.row.batch)
        places = [
            (x.fraction(one.row.batch), _HEIGHT * (1 - y.fraction(one.images_per_s)))
            for one in line
        ]
        parts.append(marks.line(places, _HEIGHT, marks.series_class(index[name])))
        for entry, (_, down) in zip(line, places, strict=True):
            hint = f"{entry.name}\n{number(entry.images_per_s)} images/s"
            point = marks.mark(index[name], x.percent(entry.row.batch), down, hint)
            hints.append(marks.group(point, row=entry.number))
    best = max(rows, key=lambda entry: entry.images_per_s)
    chart = xy(
        "batches-chart",
        "Throughput against batch size",
        f"Most: {best.name}, {number(best.images_per_s)} images/s.",
        Axis(x, "images in a batch", ticks=batches if len(batches) < 9 else None),
        Axis(y, "images/s"),
        _HEIGHT,
        *parts,
        *hints,
    )
    return Section(
        "batches",
        "Throughput by batch",
        join(legend(index, lines), chart),
        "Valid rows.",
        wide=False,
    )
