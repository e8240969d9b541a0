"""Points of which two things count, and the line of those that no other one beats at both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnext_bench.pareto import pareto_front

from . import marks
from .chart import Axis, xy
from .markup import Markup

HEIGHT = 260.0


@dataclass(frozen=True)
class Point:
    """One point.

    Attributes:
        x: less is better.
        y: more is better.
        series: its index, for color and shape.
        label: a word above it.
        hint: what a pointer on it shows.
        row: its number in the table.
        counts: the front may go through it; others are crosses.
        hollow: drawn as an outline.
    """

    x: float
    y: float
    series: int
    label: str
    hint: str
    row: int
    counts: bool = True
    hollow: bool = False


def scatter(
    name: str, title: str, description: str, x: Axis, y: Axis, points: Sequence[Point]
) -> Markup:
    """A chart of ``points``; better is up and to the left.

    Args:
        name: as in `picture`.
        title: as in `picture`.
        description: as in `picture`.
        x: horizontal axis.
        y: vertical axis.
        points: in the order of drawing.
    """
    corners: list[tuple[float, float]] = []
    for point in front(points):
        place = (x.scale.fraction(point.x), HEIGHT * (1 - y.scale.fraction(point.y)))
        if corners:
            corners.append((place[0], corners[-1][1]))
        corners.append(place)
    line = []
    if corners:
        line.append(marks.line([*corners, (1.0, corners[-1][1])], HEIGHT, "muted dashed"))
    drawn = [_drawn(point, x, y) for point in points]
    return xy(name, title, description, x, y, HEIGHT, *line, *drawn)


def front(points: Sequence[Point]) -> list[Point]:
    """Those that count and that no other one beats at both, the leftmost first."""
    counted = [point for point in points if point.counts]
    unbeaten = pareto_front([(point.x, -point.y) for point in counted])
    return sorted(
        (point for point, is_on in zip(counted, unbeaten, strict=True) if is_on),
        key=lambda point: point.x,
    )


def _drawn(point: Point, x: Axis, y: Axis) -> Markup:
    at, down = x.scale.percent(point.x), HEIGHT * (1 - y.scale.fraction(point.y))
    drawn = (
        marks.mark(point.series, at, down, point.hint, hollow=point.hollow)
        if point.counts
        else marks.cross(at, down, "muted", point.hint)
    )
    label = marks.label(point.label, at, down - 8, "middle", "small")
    return marks.group(drawn, label, row=point.row)
