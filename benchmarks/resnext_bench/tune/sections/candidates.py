"""All candidates, with their numbers and why they fell."""

from __future__ import annotations

from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import prose
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.report.grid import NO_VALUE
from resnext_bench.tune.columns import COLUMNS, HEADINGS, LEFT, cells
from resnext_bench.tune.record import CandidateRecord, TuneRecord

from .points import Entry, entries, outcome

#: As headings of cells that begin with their numbers, so that they sort.
_PAGE = {"p99 ms": "p99 ms, at most"}
_WHY = "why"


def section(record: TuneRecord) -> Section | None:
    """The table without empty columns; a script sorts it by any. None without candidates."""
    rows = entries(record)
    if not rows:
        return None
    texts = [cells(row.candidate) for row in rows]
    shown = [
        place
        for place, column in enumerate(zip(*texts, strict=True))
        if not set(column) <= set(NO_VALUE)
    ]
    headings = [*(_PAGE.get(HEADINGS[place], HEADINGS[place]) for place in shown), _WHY]
    body = [
        [*(_cell(row.candidate, HEADINGS[place], text[place]) for place in shown), _why(row)]
        for row, text in zip(rows, texts, strict=True)
    ]
    whole = table(
        "Candidates",
        headings,
        body,
        left=[place for place, heading in enumerate(headings) if heading in (*LEFT, _WHY)],
        numbers=[row.number for row in rows],
        sortable=True,
    )
    meanings = ". ".join(f"{column.heading}: {column.meaning}" for column in COLUMNS)
    meaning = tag("details", tag("summary", "What the columns mean"), tag("p", f"{meanings}."))
    return Section("candidates", "Candidates", join(whole, meaning))


def _cell(one: CandidateRecord, heading: str, text: str) -> Markup | str:
    return outcome(one) if heading == "outcome" else text.removeprefix("\u2264 ")


def _why(row: Entry) -> Markup:
    one = row.candidate
    return prose("; ".join(filter(None, (one.reason, one.hint, one.prior))))
