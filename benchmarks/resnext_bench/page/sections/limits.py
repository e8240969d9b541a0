"""How close rows come to what the machine can do: the roofline, and the share of the limit."""

from __future__ import annotations

from collections.abc import Sequence

from resnext_bench.limits.distance import Distance
from resnext_bench.page import marks
from resnext_bench.page.chart import GAP, Axis, Strip, legend, strips, xy
from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, entries, measured, series
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import Scale, logarithmic, number
from resnext_bench.record import RunRecord

_HEIGHT = 10.0
_ROOF_HEIGHT = 260.0


def section(run: RunRecord) -> Section | None:
    """The charts; None if this machine's ceilings were not measured."""
    rows = [(entry, entry.row.distance) for entry in measured(run) if entry.row.distance]
    if not rows:
        return None
    return Section(
        "limits",
        "Distance from the limit",
        join(_roofline(run, rows), _shares(rows)),
        "The limit is the least time of the network with every residual block fused, from the"
        " ceilings that were measured on this machine.",
    )


def _shares(rows: Sequence[tuple[Entry, Distance]]) -> Markup:
    scale = Scale(0, max(1.0, *(distance.share for _, distance in rows)) * 1.02)
    drawn = []
    for entry, distance in rows:
        text = f"{distance.share:.0%}, limited by {distance.limited_by}"
        least = f"least {number(distance.blocks_ns / 1e6)} ms"
        hint = f"{entry.name}\n{text}, {distance.ceiling}\n{least}, measured {number(entry.ms)} ms"
        bar = marks.bar(scale.fraction(distance.share), 1, _HEIGHT - 2, "accent")
        drawn.append(Strip(entry.name, text, bar, entry.number, hint))
    nearest, distance = max(rows, key=lambda row: row[1].share)
    return strips(
        "limits-chart",
        "Share of the limit",
        f"Nearest: {nearest.name}, {distance.share:.0%}.",
        Axis(scale, "least time over measured time", lambda value: f"{value:.0%}"),
        drawn,
        _HEIGHT,
        marks.upright(scale, 1, _HEIGHT + GAP, "limit", -GAP),
    )


def _roofline(run: RunRecord, rows: Sequence[tuple[Entry, Distance]]) -> Markup | None:
    """Operations a second against operations a byte; None for files that lack them."""
    points = [(entry, *_place(entry, distance)) for entry, distance in rows if distance.bytes_per_s]
    if not points:
        return None
    roofs = {
        distance.ceiling: (distance.operations_per_s, distance.bytes_per_s)
        for _, distance in rows
        if distance.bytes_per_s
    }
    ridges = [top / slope for top, slope in roofs.values()]
    tops = [top for top, _ in roofs.values()]
    x = logarithmic([*(one[1] for one in points), *(ridge / 3 for ridge in ridges), *ridges])
    y = logarithmic([*(one[2] for one in points), *(top / 3 for top in tops), *tops])
    index = series(entries(run))
    parts: list[Markup] = []
    for name, (top, slope) in roofs.items():
        ridge, floor = top / slope, max(x.low, y.low / slope)
        corners = [(floor, slope * floor), (ridge, top), (x.high, top)]
        line = [(x.fraction(a), _ROOF_HEIGHT * (1 - y.fraction(b))) for a, b in corners]
        parts.append(marks.line(line, _ROOF_HEIGHT, "ink"))
        label = f"{name}, {number(top / 1e12)} Top/s, {number(slope / 1e9)} GB/s"
        parts.append(marks.label(label, "100%", line[-1][1] - 6, "end", "small"))
    for entry, across, up in points:
        hint = f"{entry.name}\n{number(up / 1e12)} Top/s at {number(across)} operations a byte"
        down = _ROOF_HEIGHT * (1 - y.fraction(up))
        point = marks.mark(index[entry.series], x.percent(across), down, hint)
        parts.append(marks.group(point, row=entry.number))
    best = max(points, key=lambda one: one[2])
    chart = xy(
        "roofline-chart",
        "Roofline",
        f"Most operations: {best[0].name}, {number(best[2] / 1e12)} Top/s.",
        Axis(x, "operations a byte of fused blocks"),
        Axis(y, "Top/s", lambda value: f"{value / 1e12:g}"),
        _ROOF_HEIGHT,
        *parts,
    )
    return join(
        tag("h3", "Roofline"),
        legend(index, {entry.series for entry, *_ in points}),
        chart,
        tag("h3", "Share of the limit"),
    )


def _place(entry: Entry, distance: Distance) -> tuple[float, float]:
    """Operations a byte, and operations a second."""
    runs_per_s = entry.images_per_s / entry.row.batch
    return distance.operations / distance.blocks_bytes, distance.operations * runs_per_s
