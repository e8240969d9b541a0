"""# too-few-samples

A median needs at least 11 samples before it says, with 99 % confidence, that half of the runs are
no slower. A number from fewer runs is an accident.

What to do: give more `samples` or a longer `duration`.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.stats import LEAST_SAMPLES

from .evidence import Evidence

CODE = "too-few-samples"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for each boundary with too few samples for a median."""
    for timing in evidence.timings:
        if timing.stats.count < LEAST_SAMPLES[50]:
            yield Finding(
                CODE,
                f"only {timing.stats.count} {timing.boundary} samples, and a median needs"
                f" {LEAST_SAMPLES[50]}",
                "give more `samples` or a longer `duration`",
            )
