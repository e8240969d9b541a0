"""The element type in which each layer was computed."""

from __future__ import annotations

import re
from itertools import groupby

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, Strip, strips
from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import Entry, entries
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import Scale
from resnext_bench.record import RunRecord

_HEIGHT = 9.0
#: Modules that are not in a stage: before and after all others.
_ENDS = {"conv1": 0, "fc": 2}
#: Top and height of the bars of an element type, which so differ in more than color.
_FORMS = ((0.0, _HEIGHT), (2.5, 4.0), (0.0, 3.0), (6.0, 3.0))


def section(run: RunRecord) -> Section | None:
    """A bar for each layer, or what older files tell: a count for each row."""
    rows = [entry for entry in entries(run) if entry.row.delivered is not None]
    if not rows:
        return None
    by_layer = [entry for entry in rows if entry.row.modules]
    if not by_layer:
        cells = [[entry.name, entry.row.delivered or ""] for entry in rows]
        numbers = [entry.number for entry in rows]
        headings = ("row", "computed in")
        body = table("Delivered precision", headings, cells, left=(0, 1), numbers=numbers)
        return Section("precision", "Delivered precision", body)
    types = {dtype: index for index, dtype in enumerate(_types(by_layer))}
    most = max(len(entry.row.modules) for entry in by_layer)
    axis = Axis(Scale(0, most), "convolutions and classifier, from input to output")
    chart = strips(
        "precision-chart",
        "Element type of each layer",
        f"Types in this run: {', '.join(types)}.",
        axis,
        [_strip(entry, most, types) for entry in by_layer],
        _HEIGHT,
    )
    note = "What the runtime reports after its own optimizations, not what was requested."
    body = join(_key(types), chart)
    return Section("precision", "Delivered precision by layer", body, note)


def _strip(entry: Entry, most: int, types: dict[str, int]) -> Strip:
    bars, hints, first = [], [entry.name], 0
    for dtype, alike in groupby(_modules(entry), key=lambda item: item[1]):
        names = [name for name, _ in alike]
        bars.append(_bar(types[dtype], 100 * first / most, 100 * len(names) / most))
        ends = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        hints.append(f"{ends}: {dtype}")
        first += len(names)
    return Strip(entry.name, _summary(entry), join(*bars), entry.number, "\n".join(hints[:8]))


def _modules(entry: Entry) -> list[tuple[str, str]]:
    """Modules with their element types, the same ones at the same place in every row: runtimes
    differ in the order in which they compute them.
    """

    def place(module: tuple[str, str]) -> tuple[int, list[tuple[int, str]]]:
        parts = [(int(part or 0), word) for word, part in re.findall(r"(\D*)(\d*)", module[0])]
        return _ENDS.get(module[0], 1), parts

    return sorted(entry.row.modules.items(), key=place)


def _bar(index: int, left: float, width: float) -> Markup:
    top, height = _FORMS[index % len(_FORMS)]
    size = {"x": f"{left:.2f}%", "width": f"{width:.2f}%"}
    class_ = f"cell {marks.series_class(index)}"
    return tag("rect", y=top, height=height, class_=class_, **size)


def _summary(entry: Entry) -> str:
    kinds = list(entry.row.modules.values())
    return ", ".join(f"{kinds.count(dtype)} {dtype}" for dtype in dict.fromkeys(kinds))


def _types(rows: list[Entry]) -> list[str]:
    return list(dict.fromkeys(dtype for entry in rows for dtype in entry.row.modules.values()))


def _key(types: dict[str, int]) -> Markup:
    items = [
        tag(
            "li",
            tag("svg", _bar(index, 0, 100), class_="key", width=14, height=14, aria_hidden="true"),
            dtype,
        )
        for dtype, index in types.items()
    ]
    return tag("ul", *items, class_="legend")
