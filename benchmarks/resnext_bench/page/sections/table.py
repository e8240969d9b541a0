"""All rows, with their numbers."""

from __future__ import annotations

from resnext_bench.page.document import Section
from resnext_bench.page.document import table as drawn
from resnext_bench.page.entries import entries, status
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.record import RunRecord
from resnext_bench.report import headings, legend, lines

#: Columns that are aligned to the left; the first two lead the table.
_LEFT = ("backend", "verdict", "time")
#: A column that the terminal draws with letters, and this page as a chart.
_DRAWN = "rounds"


def section(run: RunRecord) -> Section | None:
    """The rows; a script sorts them by any column."""
    names = headings(run)
    columns = [*_LEFT[:2], *(name for name in names if name not in (*_LEFT[:2], _DRAWN))]
    cells: list[list[Markup | str]] = []
    numbers = []
    for entry in entries(run):
        for line in lines(entry.row, run):
            by_name: dict[str, Markup | str] = dict(zip(names, line, strict=True))
            by_name["verdict"] = status(entry.row.status)
            cells.append([by_name[name] for name in columns])
            numbers.append(entry.number)
    left = [columns.index(name) for name in _LEFT]
    whole = drawn("Rows", columns, cells, left=left, numbers=numbers, sortable=True)
    meaning = tag("details", tag("summary", "What the columns mean"), tag("p", legend(run)))
    return Section("rows", "Rows", join(whole, meaning))
