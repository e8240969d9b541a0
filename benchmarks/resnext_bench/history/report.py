"""A history on a screen: a sparkline for each series, a line for each step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from resnext_bench.comparison.packages import describe_upgrades
from resnext_bench.report.grid import draw, say
from resnext_bench.report.rounds import BARS, FULL_HEIGHT

if TYPE_CHECKING:
    from resnext_bench.report.grid import Screen

    from .record import HistoryRecord, SeriesRecord, StepRecord

_HEADINGS = ("row", "over time", "least ms", "most ms", "newest ms", "runs")
#: Columns that a narrow terminal does without, in the order of leaving.
_DROPPED_FIRST = ("most ms", "least ms", "newest ms")
_STEP = "|"
#: Most bars of a sparkline.
_MOST_BARS = 24


def show(history: HistoryRecord, console: Screen) -> None:
    """Print the series of each machine and network, their steps, and what was left out."""
    gone: dict[str, None] = {}
    for title, each in groupby(history.series, title_of):
        group = list(each)
        say(title, console)
        _, dropped = draw(
            _HEADINGS,
            [_cells(series) for series in group],
            console,
            left=_HEADINGS[:2],
            folded="row",
            dropped_first=_DROPPED_FIRST,
        )
        gone.update(dict.fromkeys(dropped))
        for series in group:
            for step in series.steps:
                say(f"step of {series}: {describe_step(series, step)}", console)
        say("", console)
    if gone:
        names = ", ".join(heading.removesuffix(" ms") for heading in gone)
        say(f"not shown: {names} (wider terminal or JSON)", console)
    for line in remarks(history):
        say(line, console)


def remarks(history: HistoryRecord) -> list[str]:
    """One line for each kind of thing that is in no series, and for each broken file."""
    lines = [f"{each}, {title_of(each)}: {each.absent}" for each in history.series if each.absent]
    if history.unlike:
        lines.append(f"no two of the {history.runs} runs are alike: {history.unlike}")
    if short := [each for each in history.series if each.more]:
        lines.append(
            f"no step can be seen in {len(short)} of {len(history.series)} series; {too_few(short)}"
        )
    return lines + left_out(history)


def left_out(history: HistoryRecord) -> list[str]:
    """One line for the rows, one for the JSON files that are no runs, one for each broken file."""
    lines = []
    if history.left_out:
        lines.append(f"left out: {history.left_out} rows that are not valid, or were disturbed")
    if history.other:
        first = f"{history.other[0]}{', ...' * (len(history.other) > 1)}"
        lines.append(f"left out: {len(history.other)} JSON files that are no runs ({first})")
    return lines + [f"left out: {problem}" for problem in history.broken]


def sparkline(values: Sequence[float], steps: Iterable[int] = (), most: int = _MOST_BARS) -> str:
    """``values`` as bars, a line before each of ``steps``. The lowest bar is the smallest value;
    the full height is 10 % above it, or the largest value if that is larger.

    Args:
        values: in order, positive; neighbors are joined if there are more than ``most``.
        steps: indices of the first values after a step.
        most: about how many bars.
    """
    low = min(values)
    height = max(max(values) - low, FULL_HEIGHT * low)
    each = max(1, math.ceil(len(values) / most))
    levels = []
    for start, end in pairwise([0, *steps, len(values)]):
        blocks = [values[at : min(at + each, end)] for at in range(start, end, each)]
        places = [(statistics.median(block) - low) / height for block in blocks]
        levels.append("".join(BARS[round(place * (len(BARS) - 1))] for place in places))
    return _STEP.join(levels)


def describe_step(series: SeriesRecord, step: StepRecord) -> str:
    """When, how much, and between which runs and versions."""
    change, interval = percent_of(step)
    times = f"{_ms(step.before_ns)} -> {_ms(step.after_ns)} ms"
    return f"{change} (95 % interval {interval}), {times}, {place_of(series, step)}"


def place_of(series: SeriesRecord, step: StepRecord) -> str:
    """Between which runs and versions a step is."""
    last, first = series.points[step.index - 1], series.points[step.index]
    parts = [f"{when(first.created)}, {last.file} -> {first.file}"]
    if step.packages:
        parts.append(describe_upgrades(step.packages))
    if step.same_file is False:
        parts.append("another artifact")
    return "; ".join(parts)


def percent_of(step: StepRecord) -> tuple[str, str]:
    """How much longer the runs after a step take, and the interval of that."""
    assert step.change.ratio is not None
    change, low, high = (100 * (ratio - 1) for ratio in step.change.ratio)
    return f"{change:+.1f} %", f"{low:+.1f} to {high:+.1f} %"


def title_of(series: SeriesRecord) -> str:
    """What a series shares with those that are shown beside it."""
    return f"{series.machine}: {series.model}, weights {series.weights}"


def _cells(series: SeriesRecord) -> tuple[str, ...]:
    times = [point.median_ns for point in series.points]
    return (
        str(series),
        sparkline(times, [step.index for step in series.steps]),
        _ms(min(times)),
        _ms(max(times)),
        _ms(times[-1]),
        str(len(times)),
    )


def too_few(series: Sequence[SeriesRecord]) -> str:
    """How many runs a step takes, and how many are missing, of series that have too few."""
    longest = max(len(each.points) for each in series)
    least = longest + min(each.more for each in series)
    return (
        f"a step takes {least} runs of a series, the longest of these has {longest}:"
        f" {least - longest} more"
    )


def _ms(time_ns: float) -> str:
    return f"{time_ns / 1e6:.3f}"


def when(created: str) -> str:
    """A moment, to the minute."""
    return created[:16].replace("T", " ")
