"""A history as one page: its steps, and each series as a chart."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from resnext_bench.comparison.packages import describe_upgrades
from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, xy
from resnext_bench.page.document import Section, document, table
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import Scale, linear, number

from .report import percent_of, remarks, title_of, when
from .verdicts import sentence

if TYPE_CHECKING:
    from .record import HistoryRecord, PointRecord, SeriesRecord, StepRecord

_HEIGHT = 170.0
#: With more points on a page, they have neither intervals nor hints, so that it stays small.
_MOST_POINTS = 2000
#: Most dates on the horizontal axis.
_MOST_DATES = 4
_CLASSES = {"FASTER": "valid", "SAME": "valid", "SLOWER": "failed", "CANNOT TELL": "invalid"}


def history_page(history: HistoryRecord) -> str:
    """The page of ``history``: one file of HTML."""
    numbers = {id(each): index for index, each in enumerate(history.series)}
    many = sum(len(each.points) for each in history.series) > _MOST_POINTS
    sections = [_steps(history)] if any(each.steps for each in history.series) else []
    for index, (title, group) in enumerate(groupby(history.series, title_of)):
        sections.append(_group(f"group-{index}", title, list(group), numbers, many))
    return document("History of runs", _lead(history), sections)


def _lead(history: HistoryRecord) -> Markup:
    slower = sum(each.verdict == "SLOWER" for each in history.series)
    words = (
        f"{slower} of {len(history.series)} rows slower in the newest {history.window} runs"
        if slower
        else f"no row is slower in the newest {history.window} runs"
    )
    findings = [
        tag("li", f"{each.verdict}: {each}, {title_of(each)}: {words}", class_=f"is-{kind}")
        for each in history.series
        if each.change is not None
        for kind, words in ((_CLASSES[each.verdict], sentence(each, history.window)),)
    ]
    rest = [tag("li", line) for line in remarks(history)]
    return join(
        tag("p", f"{history.runs} runs, {len(history.series)} series", class_="sub"),
        tag(
            "p",
            tag(
                "span", f"{'!' if slower else '✓'} {words}", class_="failed" if slower else "valid"
            ),
            class_="verdict",
        ),
        tag("ul", *findings, *rest, class_="findings") if findings or rest else None,
    )


def _steps(history: HistoryRecord) -> Section:
    rows = [(str(each), *_step_cells(each, step)) for each in history.series for step in each.steps]
    headings = (
        "row",
        "when",
        "change",
        "95 % interval",
        "ms",
        "from run",
        "to run",
        "what changed",
    )
    body = table("All steps", headings, rows, left=(0, 1, 5, 6, 7), sortable=True)
    note = (
        "Between these runs the level of a row changed. If its runs are shuffled, a step as large"
        " comes up at most once in twenty times."
    )
    return Section("steps", "Steps", body, note)


def _step_cells(series: SeriesRecord, step: StepRecord) -> tuple[str, ...]:
    last, first = series.points[step.index - 1], series.points[step.index]
    changed = [describe_upgrades(step.packages)] if step.packages else []
    changed += ["another artifact"] if step.same_file is False else []
    change, interval = percent_of(step)
    return (
        when(first.created),
        change,
        interval,
        f"{_ms(step.before_ns)} to {_ms(step.after_ns)}",
        last.file,
        first.file,
        "; ".join(changed) or "-",
    )


def _group(
    name: str, title: str, group: Sequence[SeriesRecord], numbers: dict[int, int], many: bool
) -> Section:
    headings = ("row", "runs", "steps", "least ms", "most ms", "newest ms", "verdict")
    rows = [_cells(each) for each in group]
    charts = [
        join(tag("h3", str(each)), _chart(f"series-{numbers[id(each)]}", each, many))
        for each in group
        if len(each.points) > 1
    ]
    body = join(table(f"Rows of {title}", headings, rows, left=(0, 6), sortable=True), *charts)
    note = (
        "A point is the median of a run, with its 95 % interval. An upright line is a step, a"
        " level one the median between two steps."
    )
    return Section(name, title, body, note if charts else "")


def _cells(series: SeriesRecord) -> tuple[Markup | str, ...]:
    times = [point.median_ns for point in series.points]
    return (
        str(series),
        str(len(times)),
        str(len(series.steps)),
        _ms(min(times)),
        _ms(max(times)),
        _ms(times[-1]),
        tag("span", series.verdict, class_=f"status {_CLASSES[series.verdict]}"),
    )


def _chart(name: str, series: SeriesRecord, many: bool) -> Markup:
    points = series.points
    x = Scale(-0.5, len(points) - 0.5)
    y = linear(
        end / 1e6
        for point in points
        for end in (point.median_ns, point.low_ns, point.high_ns)
        if end is not None
    )
    apart = max(1, -(-len(points) // _MOST_DATES))
    dates = Axis(x, "run", lambda at: points[int(at)].created[:10], range(0, len(points), apart))
    steps = [marks.upright(x, step.index - 0.5, _HEIGHT, "limit step") for step in series.steps]
    told = f"{len(points)} runs from {when(points[0].created)} to {when(points[-1].created)}."
    for step in series.steps:
        change, interval = percent_of(step)
        told += f" {when(points[step.index].created)}: {change} ({interval})."
    return xy(
        name,
        f"{series}, medians of {len(points)} runs",
        told if series.steps else f"{told} No step.",
        dates,
        Axis(y, "ms"),
        _HEIGHT,
        *_levels(series, x, y),
        *steps,
        _dots(points, x, y)
        if many
        else join(*(_point(at, point, x, y) for at, point in enumerate(points))),
    )


def _levels(series: SeriesRecord, x: Scale, y: Scale) -> Iterator[Markup]:
    """The median between two steps, or a step and an end."""
    if not series.steps:
        return
    for low, high in pairwise([0, *(step.index for step in series.steps), len(series.points)]):
        level = statistics.median(point.median_ns for point in series.points[low:high]) / 1e6
        down = _HEIGHT * (1 - y.fraction(level))
        ends = [(x.fraction(end - 0.5), down) for end in (low, high)]
        yield marks.line(ends, _HEIGHT, "muted")


def _dots(points: Sequence[PointRecord], x: Scale, y: Scale) -> Markup:
    places = (
        (x.fraction(at), y.fraction(point.median_ns / 1e6)) for at, point in enumerate(points)
    )
    return marks.dots(((across, _HEIGHT * (1 - up)) for across, up in places), _HEIGHT, "s0")


def _point(at: int, point: PointRecord, x: Scale, y: Scale) -> Markup:
    place, median = x.percent(at), point.median_ns / 1e6
    interval = None
    hint = f"{point.file}\n{when(point.created)}\n{number(median)} ms"
    if point.low_ns is not None and point.high_ns is not None:
        low, high = (_HEIGHT * (1 - y.fraction(end / 1e6)) for end in (point.low_ns, point.high_ns))
        interval = tag("line", x1=place, x2=place, y1=low, y2=high, class_="interval s0")
        hint += f", {number(point.low_ns / 1e6)} to {number(point.high_ns / 1e6)} ms"
    dot = marks.mark(0, place, _HEIGHT * (1 - y.fraction(median)))
    return marks.group(*(part for part in (interval, dot) if part is not None), hint=hint)


def _ms(time_ns: float) -> str:
    return f"{time_ns / 1e6:.3f}"
