"""All rows, with their numbers."""

from __future__ import annotations

from resnext_bench.page.document import Section
from resnext_bench.page.document import table as drawn
from resnext_bench.page.entries import entries, status
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.record import RunRecord
from resnext_bench.report import headings, legend, lines


def section(run: RunRecord) -> Section | None:
    """The rows; a script sorts them by any column."""
    name, *others, verdict = headings(run)
    columns = [name, verdict, *others]
    cells: list[list[Markup | str]] = []
    numbers = []
    for entry in entries(run):
        for line in lines(entry.row, run):
            cells.append([line[0], status(entry.row.status), *line[1:-1]])
            numbers.append(entry.number)
    left = tuple(columns.index(name) for name in ("backend", "time", "verdict") if name in columns)
    whole = drawn("Rows", columns, cells, left=left, numbers=numbers, sortable=True)
    meaning = tag("details", tag("summary", "What the columns mean"), tag("p", legend(run)))
    return Section("rows", "Rows", join(whole, meaning))
