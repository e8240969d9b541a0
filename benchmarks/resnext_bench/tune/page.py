"""A search as one page."""

from __future__ import annotations

from resnext_bench.page.document import Section, document, table
from resnext_bench.page.markup import tag

from .columns import HEADINGS, LEFT, cells
from .record import TuneRecord
from .report import title
from .verdict import verdict


def tune_page(record: TuneRecord) -> str:
    """The page of ``record``: one file of HTML."""
    rows = [cells(one) for one in record.candidates]
    left = [HEADINGS.index(heading) for heading in LEFT]
    body = table("Candidates", HEADINGS, rows, left=left, sortable=True)
    lead = tag("p", str(verdict(record)), class_="verdict")
    return document(title(record), lead, [Section("candidates", "Candidates", body)])
