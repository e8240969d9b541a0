"""All candidates, with their numbers and why they fell."""

from __future__ import annotations

from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import prose
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.tune.columns import COLUMNS, HEADINGS, LEFT, cells
from resnext_bench.tune.record import CandidateRecord, TuneRecord

from .points import entries, outcome

#: As headings of cells that begin with their numbers, so that they sort.
_PAGE = {"p99 ms": "p99 ms, at most"}
_WHY = "why"


def section(record: TuneRecord) -> Section | None:
    """The table; a script sorts it by any column. None without candidates."""
    rows = entries(record)
    if not rows:
        return None
    headings = [*(_PAGE.get(heading, heading) for heading in HEADINGS), _WHY]
    left = [headings.index(heading) for heading in (*LEFT, _WHY)]
    whole = table(
        "Candidates",
        headings,
        [[*_cells(row.candidate), _why(row.candidate)] for row in rows],
        left=left,
        numbers=[row.number for row in rows],
        sortable=True,
    )
    meanings = ". ".join(f"{column.heading}: {column.meaning}" for column in COLUMNS)
    meaning = tag("details", tag("summary", "What the columns mean"), tag("p", f"{meanings}."))
    return Section("candidates", "Candidates", join(whole, meaning))


def _cells(one: CandidateRecord) -> list[Markup | str]:
    found: list[Markup | str] = []
    for heading, cell in zip(HEADINGS, cells(one), strict=True):
        found.append(outcome(one) if heading == "outcome" else cell.removeprefix("\u2264 "))
    return found


def _why(one: CandidateRecord) -> Markup:
    return prose("; ".join(filter(None, (one.reason, one.hint))))
