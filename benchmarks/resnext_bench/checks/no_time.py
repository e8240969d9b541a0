"""# no-time

A run took no time at all by the clock: it did nothing, or the clock is broken. Device times of zero
are those of events on a stream that had no work.

What to do: report it as a bug, with the run's JSON file.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "no-time"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for each boundary with a run of no time."""
    for timing in evidence.timings:
        if timing.stats.min_ns <= 0:
            yield Finding(
                CODE,
                f"a {timing.boundary} run took no time by the clock: it did nothing, or the clock"
                " is broken",
            )
