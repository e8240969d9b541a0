"""From nothing to the first answer, in fresh processes."""

from __future__ import annotations

from collections.abc import Callable

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, Strip, strips
from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, entries
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import Scale, linear, number
from resnext_bench.record import RunRecord
from resnext_bench.report.endurance import paid_lines
from resnext_bench.scenarios.cold_record import ColdStartRecord, Start, median_of

_BAR = 9.0
#: What a start is made of, in order.
_PARTS: dict[str, Callable[[Start], float]] = {
    "interpreter": lambda start: start.python_s,
    "imports": lambda start: start.import_s,
    "open": lambda start: start.open_s,
    "first answer": lambda start: start.first_s,
}


def section(run: RunRecord) -> Section | None:
    """Two bars for each row, without and with caches; None if none was started cold."""
    rows = [(one, one.row.cold_start) for one in entries(run) if one.row.cold_start is not None]
    if not rows:
        return None
    scale = linear(
        [_total(starts) for _, cold in rows for starts in (cold.without_caches, cold.with_caches)],
        zero=True,
    )
    quick, least = min(rows, key=lambda row: _total(row[1].without_caches))
    words = f"Quickest without caches: {quick.name}, {number(_total(least.without_caches))} s."
    drawn = [_strip(entry, cold, scale) for entry, cold in rows]
    axis = Axis(scale, "seconds from the start of the process to its first answer")
    chart = strips("cold-start-chart", "Cold start of each row", words, axis, drawn, 2 * _BAR)
    note = "The upper bar is without caches, the lower one with those of the start before; medians."
    paid = [tag("p", f"Paid back: {line}.") for line in paid_lines(run)]
    return Section("cold-start", "Cold start", join(_key(), chart, *paid), note)


def _strip(entry: Entry, cold: ColdStartRecord, scale: Scale) -> Strip:
    bars: list[Markup] = []
    hints = [entry.name]
    for index, starts in enumerate((cold.without_caches, cold.with_caches)):
        if not starts:
            continue
        before, told = 0.0, []
        for place, (name, seconds) in enumerate(_PARTS.items()):
            took = median_of(starts, seconds)
            size = {
                "x": f"{100 * scale.fraction(before):.2f}%",
                "width": f"{100 * (scale.fraction(before + took) - scale.fraction(before)):.2f}%",
            }
            class_ = f"cell {marks.series_class(place)}"
            bars.append(tag("rect", y=index * _BAR + 1, height=_BAR - 2, class_=class_, **size))
            told.append(f"{name} {number(took)} s")
            before += took
        hints.append(f"{('without', 'with')[index]} caches: {', '.join(told)}")
    text = " / ".join(
        f"{number(_total(starts))} s"
        for starts in (cold.without_caches, cold.with_caches)
        if starts
    )
    return Strip(entry.name, text, join(*bars), entry.number, "\n".join(hints))


def _total(starts: tuple[Start, ...]) -> float:
    return sum(median_of(starts, seconds) for seconds in _PARTS.values()) if starts else 0.0


def _key() -> Markup:
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag(
                    "rect",
                    x="0",
                    y=2,
                    width=12,
                    height=10,
                    class_=f"cell {marks.series_class(place)}",
                ),
                class_="key",
                width=14,
                height=14,
                aria_hidden="true",
            ),
            name,
        )
        for place, name in enumerate(_PARTS)
    ]
    return tag("ul", *items, class_="legend")
