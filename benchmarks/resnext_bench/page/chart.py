"""A picture with axes, and a title and a description for people who do not see it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from . import marks
from .markup import Markup, join, tag
from .scales import Scale, tick_texts

#: Pixels below a plot for the ticks and the name of its horizontal axis.
_AXIS = 40
#: Pixels above and below the marks of a row.
GAP = 5


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        scale: values and places.
        name: what it shows, with the unit.
        form: a tick's value as text; None gives it as many digits as tell ticks apart.
        ticks: values of the ticks; None lets the scale choose.
    """

    scale: Scale
    name: str
    form: Callable[[float], str] | None = None
    ticks: Sequence[float] | None = None

    def at(self, count: int) -> list[tuple[float, str]]:
        """The ticks, at most ``count`` if the scale chooses, and their texts."""
        ticks = self.scale.ticks(count) if self.ticks is None else self.ticks
        texts = tick_texts(ticks) if self.form is None else map(self.form, ticks)
        return list(zip(ticks, texts, strict=True))


@dataclass(frozen=True)
class Strip:
    """One row of `strips`.

    Attributes:
        name: text on the left; on a narrow page above the marks.
        value: text on the right.
        marks: drawn in a plot of the strips' height.
        row: its number in the table, or None.
        hint: what a pointer on it shows.
    """

    name: str
    value: str
    marks: Markup
    row: int | None = None
    hint: str = ""


def picture(
    name: str, title: str, description: str, height: float, *parts: Markup, class_: str = "chart"
) -> Markup:
    """An SVG as wide as the page.

    Args:
        name: of this picture, unique in the document, as an HTML id.
        title: what it shows.
        description: what can be seen, in a sentence or two, with the numbers that matter.
        height: pixels.
        *parts: what is drawn.
        class_: ``chart gutter`` leaves room for the ticks of a vertical axis.
    """
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-description"),
        *parts,
        class_=class_,
        role="img",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-description",
        width="100%",
        height=height,
    )


def xy(
    name: str, title: str, description: str, x: Axis, y: Axis, height: float, *parts: Markup
) -> Markup:
    """A chart with two axes.

    Args:
        name: as in `picture`.
        title: as in `picture`.
        description: as in `picture`.
        x: horizontal axis.
        y: vertical axis; a value is ``(1 - scale.fraction(value)) * height`` pixels from the top.
        height: of the plot, pixels.
        *parts: drawn in the plot.
    """
    top = 22
    grid, ticks = [], []
    for value, text in y.at(6):
        place = height * (1 - y.scale.fraction(value))
        grid.append(tag("line", x1="0", x2="100%", y1=place, y2=place, class_="grid"))
        ticks.append(marks.label(text, "-8", place + 4, "end", "tick"))
    inside = (*grid, *ticks, _below(x, height, 5), *parts)
    plot = tag("svg", *inside, width="100%", y=top, height=height)
    heading = marks.label(y.name, "-8", 11, "start", "axis")
    size = top + height + _AXIS
    return picture(name, title, description, size, heading, plot, class_="chart gutter")


def strips(
    name: str,
    title: str,
    description: str,
    x: Axis,
    rows: Sequence[Strip],
    height: float,
    back: Markup | None = None,
) -> Markup:
    """Rows above one another that share the horizontal axis, with their names and values as text.

    Args:
        name: as in `picture`.
        title: as in `picture`.
        description: as in `picture`.
        x: horizontal axis.
        rows: from the top.
        height: of the marks of one row, pixels.
        back: drawn behind the marks of each row, from -`GAP` to ``height + GAP``.
    """
    grid = [marks.upright(x.scale, value, height + GAP, "grid", -GAP) for value, _ in x.at(5)]
    shared = tag("g", *grid, back, id=f"{name}-grid")
    items = [
        tag(
            "li",
            tag("span", row.name, class_="name"),
            tag(
                "svg",
                tag("title", row.hint) if row.hint else None,
                tag(
                    "g",
                    tag("use", href=f"#{name}-grid"),
                    row.marks,
                    transform=f"translate(0 {GAP})",
                ),
                class_="chart",
                aria_hidden="true",
                width="100%",
                height=height + 2 * GAP,
            ),
            tag("span", row.value, class_="value"),
            data_row=row.row,
        )
        for row in rows
    ]
    axis = tag(
        "svg",
        tag("defs", shared),
        _below(x, 0, 5),
        class_="chart below",
        aria_hidden="true",
        width="100%",
        height=_AXIS,
    )
    return tag(
        "figure",
        tag("figcaption", f"{title}. {description}", class_="unseen", id=f"{name}-description"),
        tag("ul", *items),
        axis,
        class_="strips",
        aria_labelledby=f"{name}-description",
    )


def legend(series: Mapping[str, int], drawn: Collection[str]) -> Markup:
    """The series of a chart with their marks.

    Args:
        series: the index of each, by name.
        drawn: those that are in this chart.
    """
    items = [
        tag(
            "li",
            tag(
                "svg",
                marks.mark(index, "7", 7),
                class_="key",
                width=14,
                height=14,
                aria_hidden="true",
            ),
            name,
        )
        for name, index in series.items()
        if name in drawn
    ]
    return tag("ul", *items, class_="legend")


def _below(x: Axis, height: float, count: int) -> Markup:
    """The horizontal axis below a plot of ``height``, with its grid."""
    parts = []
    for value, text in x.at(count):
        share = x.scale.fraction(value)
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        parts.append(marks.upright(x.scale, value, height, "grid"))
        parts.append(marks.label(text, x.scale.percent(value), height + 16, anchor, "tick"))
    line = tag("line", x1="0", x2="100%", y1=height, y2=height, class_="base")
    return join(*parts, line, marks.label(x.name, "100%", height + 34, "end", "axis"))
