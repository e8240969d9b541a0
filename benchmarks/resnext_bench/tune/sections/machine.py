"""The machine, the software on it, and what was searched."""

from __future__ import annotations

from resnext_bench.page.document import Section
from resnext_bench.page.sections.machine import listed
from resnext_bench.tune.record import TuneRecord


def section(record: TuneRecord) -> Section | None:
    """What the numbers hold for."""
    weights = record.weights
    facts = {
        "threads": str(record.threads),
        "weights": f"{weights.source}, sha256 {weights.sha256}",
        "labeled images": record.accuracy_source or "",
        "seed": str(record.seed),
    }
    return listed(record.environment, facts)
