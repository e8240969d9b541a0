"""The element type in which each layer was computed."""

from __future__ import annotations

from resnext_bench.page import marks
from resnext_bench.page.chart import picture
from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import Entry, entries
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.record import RunRecord

_PITCH, _HEIGHT = 44.0, 16.0


def section(run: RunRecord) -> Section | None:
    """Cells for each layer, or what older files tell: a count for each row."""
    rows = [entry for entry in entries(run) if entry.row.delivered is not None]
    if not rows:
        return None
    by_layer = [entry for entry in rows if entry.row.modules]
    if not by_layer:
        cells = [[entry.name, entry.row.delivered or ""] for entry in rows]
        numbers = [entry.number for entry in rows]
        body = table(
            "Delivered precision", ("row", "computed in"), cells, left=(0, 1), numbers=numbers
        )
        return Section("precision", "Delivered precision", body, wide=False)
    types = {dtype: index for index, dtype in enumerate(_types(by_layer))}
    parts = [_line(entry, index * _PITCH, types) for index, entry in enumerate(by_layer)]
    told = "; ".join(f"{entry.name}: {_summary(entry)}" for entry in by_layer[:12])
    chart = picture(
        "precision-chart", "Element type of each layer", told, len(by_layer) * _PITCH, *parts
    )
    note = "One cell for each convolution and the classifier, in order of execution."
    return Section("precision", "Delivered precision by layer", join(_key(types), chart), note)


def _line(entry: Entry, top: float, types: dict[str, int]) -> Markup:
    modules = entry.row.modules
    width = 100 / len(modules)
    cells = [
        tag(
            "g",
            tag("title", f"{name}: {dtype}"),
            tag(
                "rect",
                x=f"{index * width:.3f}%",
                y=top + 17 + (0, 5, 2.5, 7)[types[dtype] % 4],
                width=f"{width:.3f}%",
                height=(_HEIGHT, _HEIGHT - 5, _HEIGHT - 5, 4)[types[dtype] % 4],
                class_=f"cell {marks.series_class(types[dtype])}",
            ),
        )
        for index, (name, dtype) in enumerate(modules.items())
    ]
    return marks.group(
        marks.label(entry.name, "0", top + 12, "start", "name"),
        marks.label(_summary(entry), "100%", top + 12, "end", "value"),
        *cells,
        row=entry.number,
    )


def _summary(entry: Entry) -> str:
    counts: dict[str, int] = {}
    for dtype in entry.row.modules.values():
        counts[dtype] = counts.get(dtype, 0) + 1
    return ", ".join(f"{count} {dtype}" for dtype, count in counts.items())


def _types(rows: list[Entry]) -> list[str]:
    return list(dict.fromkeys(dtype for entry in rows for dtype in entry.row.modules.values()))


def _key(types: dict[str, int]) -> Markup:
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag(
                    "rect",
                    x="0",
                    y=(0, 5, 2.5, 7)[index % 4],
                    width=12,
                    height=(_HEIGHT, _HEIGHT - 5, _HEIGHT - 5, 4)[index % 4],
                    class_=f"cell {marks.series_class(index)}",
                ),
                class_="key",
                width=14,
                height=16,
                aria_hidden="true",
            ),
            dtype,
        )
        for dtype, index in types.items()
    ]
    return tag("ul", *items, class_="legend")
