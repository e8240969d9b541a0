"""Speedups with their intervals, against the noise floor."""

from __future__ import annotations

from resnext_bench.page import marks
from resnext_bench.page.chart import GAP, Axis, Strip, strips
from resnext_bench.page.document import Section, paragraphs
from resnext_bench.page.entries import Entry, measured
from resnext_bench.page.markup import join
from resnext_bench.page.scales import Scale, logarithmic, number
from resnext_bench.record import RunRecord

_HEIGHT = 14.0


def section(run: RunRecord) -> Section | None:
    """The forest plot; one line if the machine was too noisy, None without anything to compare."""
    rows = [entry for entry in measured(run) if entry.timing.speedup is not None]
    floor = None if run.control is None else run.control.noise_floor
    if run.control is not None and not run.control.quiet and len(measured(run)) > 1:
        known = "is not known" if floor is None else f"of {floor:.1%}"
        above = "" if floor is None else f" is above {run.control.limit:.1%}"
        return Section(
            "speedups",
            "Speedups",
            paragraphs(f"None are shown: the noise floor {known}{above}."),
        )
    others = [entry for entry in rows if not _reference(entry)]
    if not others:
        return None
    values = [value for entry in rows for value in entry.timing.speedup or ()]
    noise = (1 - floor, 1 + floor) if floor is not None else ()
    scale = logarithmic([1.0, *noise, *values])
    back = [marks.upright(scale, 1, _HEIGHT + GAP, "zero", -GAP)]
    if floor is not None:
        back.insert(0, marks.band(scale, 1 - floor, 1 + floor, _HEIGHT + GAP, "noise", -GAP))
    best = max(others, key=lambda entry: (entry.timing.speedup or (0.0,))[0])
    worst = min(others, key=lambda entry: (entry.timing.speedup or (0.0,))[0])
    words = f"Largest: {best.name}, {_text(best)}. Smallest: {worst.name}, {_text(worst)}."
    axis = Axis(scale, "times faster than the first row of the same batch", lambda x: f"{x:g}x")
    chart = strips(
        "speedups-chart",
        "Speedups with their intervals",
        words,
        axis,
        [_strip(entry, scale) for entry in rows],
        _HEIGHT,
        join(*back),
    )
    note = "Over interleaved rounds, so that drift of the machine affects both alike. The line"
    exact = all(entry.timing.stats.median_low_ns is not None for entry in rows)
    ends = "is its 95 % interval" if exact else "goes from the lowest to the highest round"
    note += f" through a point {ends}."
    if floor is not None:
        note += f" The band is the noise floor, {floor:.1%}: what the same row differs from itself."
    return Section("speedups", "Speedups", chart, note)


def _strip(entry: Entry, scale: Scale) -> Strip:
    estimate, low, high = entry.timing.speedup or (1.0, 1.0, 1.0)
    y = _HEIGHT / 2
    if _reference(entry):
        here = marks.cross(scale.percent(1), y, "muted")
        return Strip(entry.name, "reference", here, entry.number)
    drawn = join(
        marks.interval(scale, low, high, y, "accent"),
        marks.point(scale.percent(estimate), y, "accent"),
    )
    hint = f"{entry.name}\n{_text(entry)}"
    return Strip(entry.name, _text(entry), drawn, entry.number, hint)


def _reference(entry: Entry) -> bool:
    return entry.timing.speedup == (1.0, 1.0, 1.0)


def _text(entry: Entry) -> str:
    estimate, low, high = entry.timing.speedup or (1.0, 1.0, 1.0)
    return f"{estimate:.2f}x  ({number(low)} to {number(high)})"
