"""What a chart is made of. Horizontal places are shares of the plot's width, so that it fits any
page; vertical ones are pixels. Colors are CSS classes: ``s0`` to ``s7`` for series, ``ink``,
``muted``, ``accent``, ``bad``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .markup import Markup, join, tag
from .scales import Scale

#: Outlines of the marks of a series, about 9 pixels across, around 0, 0. Rings are the last.
SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",
    "M-4-4H4V4H-4Z",
    "M0-5.5 5.5 0 0 5.5-5.5 0Z",
    "M0-5 5 4H-5Z",
    "M0 5-5-4H5Z",
    "M-1.6-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M-3.5-5.2-1.5 0-3.5 5.2 3.5 5.2 1.5 0 3.5-5.2Z",
    "M0-5.5 1.6-1.8 5.4-1.7 2.4.8 3.4 4.6 0 2.4-3.4 4.6-2.4.8-5.4-1.7-1.6-1.8Z",
)
COLORS = len(SHAPES)
#: Width of the stretched system of coordinates in which paths are drawn.
_WIDE = 1000


def definitions() -> Markup:
    """The shapes, once for each document; marks refer to them."""
    shapes = [tag("path", id=f"m{index}", d=path) for index, path in enumerate(SHAPES)]
    cross = tag("path", id="mx", d="M-3-3 3 3M-3 3 3-3", class_="stroke")
    return tag("svg", tag("defs", *shapes, cross), class_="hidden", aria_hidden="true")


def series_class(index: int) -> str:
    """The CSS class with the color of a series."""
    return f"s{index % COLORS}"


def mark(index: int, x: str, y: float, hint: str = "", *, hollow: bool = False) -> Markup:
    """The point of a series: colors and shapes differ, and from the ninth series on their pairs.

    Args:
        index: of the series.
        x: place, as `Scale.percent` gives it.
        y: pixels from the top of the plot.
        hint: what a pointer on it shows.
        hollow: outlined, for what did not pass.
    """
    shape = (index + index // COLORS) % COLORS
    point = tag("use", href=f"#m{shape}", x=x, y=y)
    return tag("g", _hint(hint), point, class_=f"mark {series_class(index)}{' hollow' * hollow}")


def point(x: str, y: float, class_: str) -> Markup:
    """A round point in one color."""
    return tag("circle", cx=x, cy=y, r=4, class_=f"mark {class_}")


def cross(x: str, y: float, class_: str = "bad", hint: str = "") -> Markup:
    """A cross, for what does not count."""
    return tag("g", _hint(hint), tag("use", href="#mx", x=x, y=y), class_=f"mark {class_}")


def dots(points: Iterable[tuple[float, float]], height: float, class_: str) -> Markup:
    """Many small dots as one element.

    Args:
        points: share of the width, 0 to 1, and pixels from the top.
        height: of the plot, pixels.
        class_: its color.
    """
    path = "".join(f"M{x * _WIDE:.0f} {y:.1f}h0" for x, y in points)
    return _stretched(tag("path", d=path, class_=f"dots {class_}"), height) if path else join()


def line(points: Sequence[tuple[float, float]], height: float, class_: str) -> Markup:
    """A line through points, as in `dots`."""
    path = "M" + " ".join(f"{x * _WIDE:.1f} {y:.1f}" for x, y in points)
    return _stretched(tag("path", d=path, class_=f"line {class_}"), height)


def interval(scale: Scale, low: float, high: float, y: float, class_: str) -> Markup:
    """A horizontal interval; an end beyond the axis is cut off there."""
    ends = scale.percent(low), scale.percent(high)
    return tag("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_=f"interval {class_}")


def band(
    scale: Scale, low: float, high: float, height: float, class_: str, top: float = 0
) -> Markup:
    """A vertical band from ``top`` to ``height``."""
    start, width = scale.fraction(low), scale.fraction(high) - scale.fraction(low)
    size = {"x": f"{100 * start:.2f}%", "width": f"{100 * width:.2f}%"}
    return tag("rect", y=top, height=height - top, class_=class_, **size)


def bar(share: float, y: float, height: float, class_: str) -> Markup:
    """A horizontal bar from the left edge."""
    width = f"{100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 100:.2f}%"
    return tag("rect", x=0, y=y, width=width, height=height, class_=f"bar {class_}")


def upright(scale: Scale, value: float, height: float, class_: str, top: float = 0) -> Markup:
    """A vertical line at ``value`` from ``top`` to ``height``."""
    x = scale.percent(value)
    return tag("line", x1=x, x2=x, y1=top, y2=height, class_=class_)


def label(text: str, x: str, y: float, anchor: str = "start", class_: str = "") -> Markup:
    """Text in a plot."""
    return tag("text", text, x=x, y=y, class_=f"{anchor} {class_}".strip())


def group(*parts: Markup, row: int | None = None, hint: str = "") -> Markup:
    """Marks of one row of the table; the script highlights all that have the same number."""
    return tag("g", _hint(hint), *parts, data_row=row)


def _hint(text: str) -> Markup | None:
    return tag("title", text) if text else None


def _stretched(path: Markup, height: float) -> Markup:
    box = {"viewBox": f"0 0 {_WIDE} {height:g}", "preserveAspectRatio": "none"}
    return tag("svg", path, width="100%", height=height, **box)
