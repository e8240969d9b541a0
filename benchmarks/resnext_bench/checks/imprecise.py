"""# imprecise-median

The 95 % interval of the median is wider than requested. It is computed from the rounds, not from
the samples, which are not independent of each other. A row whose interval is at most 10 % to either
side stays VALID, with a warning; a wider one says too little to be called a measurement.

What to do: give a longer `max_seconds` or `duration`, or more `rounds`; or accept less with
`precision_target`. Four times the rounds halve the interval.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "imprecise-median"
#: Half the width of the interval, over the median, from which on a row is invalid.
MOST = 0.10


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for the boundary that the row is judged by, if its interval is too wide."""
    if evidence.precision is None or not evidence.timings:
        return
    timing = evidence.timings[-1]
    actual = timing.stats.precision
    if actual is None or actual <= evidence.precision:
        return
    hint = "give a longer `duration` or more `rounds`"
    if actual > MOST:
        yield Finding(
            CODE,
            f"the {timing.boundary} median is known to {actual:.0%} only, and"
            f" {evidence.precision:.1%} was requested",
            hint,
        )
    else:  # the same for all rows, whose intervals are in the table
        yield Finding(
            CODE,
            f"the median's interval is wider than the {evidence.precision:.1%} that was requested",
            hint,
            severity="warning",
        )
