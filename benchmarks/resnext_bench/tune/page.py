"""A search as one page."""

from __future__ import annotations

from resnext_bench.page.document import document

from .record import TuneRecord
from .report import title
from .sections import (
    candidates,
    commands,
    confirmation,
    fallen,
    gates,
    machine,
    race,
    size_accuracy,
    trade_off,
)
from .sections.lead import lead

#: In the order of the page.
SECTIONS = (
    candidates,
    race,
    trade_off,
    size_accuracy,
    confirmation,
    fallen,
    gates,
    commands,
    machine,
)


def tune_page(record: TuneRecord) -> str:
    """The page of ``record``: one file of HTML. Sections whose data it lacks are left out."""
    found = [module.section(record) for module in SECTIONS]
    return document(title(record), lead(record), [one for one in found if one is not None])
