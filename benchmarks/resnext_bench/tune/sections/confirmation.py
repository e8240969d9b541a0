"""The pick in fresh processes, beside what the race saw."""

from __future__ import annotations

from resnext_bench.page import marks
from resnext_bench.page.chart import GAP, Axis, Strip, strips
from resnext_bench.page.document import Section
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import Scale, logarithmic
from resnext_bench.tune import amounts
from resnext_bench.tune.record import TuneRecord
from resnext_bench.tune.standing import Ratio, candidate, confirmed

_HEIGHT = 14.0


def section(record: TuneRecord) -> Section | None:
    """Two intervals for each comparison; None if nothing was confirmed."""
    if not record.confirmed:
        return None
    words = tag("ul", *(tag("li", line) for line in confirmed(record)), class_="findings")
    charts = [_chart(record, number) for number in range(len(record.confirmed))]
    note = (
        "The race chooses the best of many, which flatters the one that was lucky. So the pick was"
        " measured again in new processes, beside the next best and the baseline. A line is a 95 %"
        f" interval; the band is the margin, {amounts.share(record.margin)}, within which nothing"
        " is faster."
    )
    return Section("confirmation", "In fresh processes", join(words, *charts), note)


def _chart(record: TuneRecord, number: int) -> Markup | None:
    """The intervals of one comparison on an axis of their own; None if none is known."""
    fresh = record.confirmed[number]
    raced = candidate(record, fresh.other)
    ratios = {
        "in the race": ("muted", None if raced is None else raced.ratio),
        "in fresh processes": ("accent", fresh.ratio),
    }
    found = [(name, color, ratio) for name, (color, ratio) in ratios.items() if ratio is not None]
    if not found:
        return None
    edge = 1 + record.margin
    scale = logarithmic([1 / edge, edge, *(end for _, _, ratio in found for end in ratio)])
    told = ", ".join(f"{name} {amounts.interval(ratio)}" for name, _, ratio in found)
    chart = strips(
        f"confirmation-{number}",
        f"{fresh.other} against the pick",
        f"{told}.",
        Axis(scale, "time over the pick's", lambda value: f"{value:g}x"),
        [_strip(name, color, ratio, scale) for name, color, ratio in found],
        _HEIGHT,
        join(
            marks.band(scale, 1 / edge, edge, _HEIGHT + GAP, "noise", -GAP),
            marks.upright(scale, 1, _HEIGHT + GAP, "zero", -GAP),
        ),
    )
    return join(tag("h3", fresh.other), chart)


def _strip(name: str, color: str, ratio: Ratio, scale: Scale) -> Strip:
    estimate, low, high = ratio
    y = _HEIGHT / 2
    drawn = join(
        marks.interval(scale, low, high, y, color),
        marks.point(scale.percent(estimate), y, color),
    )
    ends = f"{amounts.times(low)} to {amounts.times(high)}"
    text = f"{amounts.times(estimate)}x  ({ends})"
    return Strip(name, text, drawn, hint=f"{name}\n{amounts.interval(ratio)}")
