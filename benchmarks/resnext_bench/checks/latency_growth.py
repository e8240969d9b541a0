"""# latency-growth

A warning, which does not make a row invalid: over a soak, the session became slower from block to
block: the 95 % interval of the slope is above zero, and the growth over the judged stretch is at
least 5 %. Heat, a credit that is used up, and other processes do this as well as the session, which
ran alone: there is no second one to compare it with.

What to do: repeat it with more minutes, on an idle machine. A session that grows slower while its
memory grows, searches in what it keeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.soak_record import SoakRecord

from .evidence import Evidence

CODE = "latency-growth"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The warning, if it applies."""
    soak = evidence.passes.records.get("soak")
    growth = soak.slower() if isinstance(soak, SoakRecord) else None
    if growth is not None:
        estimate, low, high = map(math.expm1, growth.total)
        yield Finding(
            CODE,
            f"over {growth.minutes:.1f} minutes of a soak, runs became {estimate:.0%} slower"
            f" (95 % interval {low:.0%} to {high:.0%})",
            "repeat it with more minutes of `soak`, on an idle machine",
            severity="warning",
        )
