"""A run as one page."""

from __future__ import annotations

from resnext_bench.record import RunRecord
from resnext_bench.report import title

from .document import document
from .sections import (
    batches,
    cold_start,
    commands,
    energy,
    limits,
    load,
    loadgen,
    machine,
    memory,
    parity,
    precision,
    rounds,
    served,
    soak,
    speedups,
    table,
    trade_off,
    verdict,
)

#: In the order of the page.
SECTIONS = (
    table,
    speedups,
    rounds,
    batches,
    trade_off,
    served,
    load,
    loadgen,
    limits,
    cold_start,
    energy,
    memory,
    soak,
    parity,
    precision,
    machine,
    commands,
)


def run_page(run: RunRecord) -> str:
    """The page of ``run``: one file of HTML. Sections whose data the run lacks are left out."""
    found = [module.section(run) for module in SECTIONS]
    return document(title(run), verdict.lead(run), [one for one in found if one is not None])
