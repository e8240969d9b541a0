"""The pick in fresh processes, beside what the race saw."""

from __future__ import annotations

from collections.abc import Iterator

from resnext_bench.page import marks
from resnext_bench.page.chart import GAP, Axis, Strip, strips
from resnext_bench.page.document import Section
from resnext_bench.page.markup import join, tag
from resnext_bench.page.scales import Scale, logarithmic
from resnext_bench.tune import amounts
from resnext_bench.tune.record import TuneRecord
from resnext_bench.tune.standing import Ratio, candidate, confirmed

_HEIGHT = 14.0


def section(record: TuneRecord) -> Section | None:
    """Two intervals for each comparison; None if nothing was confirmed."""
    if not record.confirmed:
        return None
    found = list(_ratios(record))
    words = tag("ul", *(tag("li", line) for line in confirmed(record)), class_="findings")
    if not found:
        return Section("confirmation", "In fresh processes", words)
    edge = 1 + record.margin
    scale = logarithmic([1 / edge, edge, *(end for _, _, ratio in found for end in ratio)])
    back = join(
        marks.band(scale, 1 / edge, edge, _HEIGHT + GAP, "noise", -GAP),
        marks.upright(scale, 1, _HEIGHT + GAP, "zero", -GAP),
    )
    told = ". ".join(f"{name}: {amounts.interval(ratio)}" for name, _, ratio in found)
    chart = strips(
        "confirmation-chart",
        "The others against the pick",
        f"{told}.",
        Axis(scale, "time over the pick's", lambda value: f"{value:g}x"),
        [_strip(name, color, ratio, scale) for name, color, ratio in found],
        _HEIGHT,
        back,
    )
    note = (
        "The race chooses the best of many, which flatters the one that was lucky. So the pick was"
        " measured again in new processes, beside the next best and the baseline. A line is a 95 %"
        f" interval; the band is the margin, {amounts.share(record.margin)}, within which nothing"
        " is faster."
    )
    return Section("confirmation", "In fresh processes", join(words, chart), note)


def _ratios(record: TuneRecord) -> Iterator[tuple[str, str, Ratio]]:
    """Name, color and ratio of each interval."""
    for one in record.confirmed:
        other = candidate(record, one.other)
        if other is not None and other.ratio is not None:
            yield f"{one.other}, in the race", "muted", other.ratio
        if one.ratio is not None:
            yield f"{one.other}, in fresh processes", "accent", one.ratio


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
