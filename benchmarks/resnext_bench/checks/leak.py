"""# memory-leak

Over a soak, the memory of the process or of the device grew from block to block: the 95 % interval
of its slope is above zero, and the growth over the judged stretch is at least 0.5 MB. A single step
is no leak, and neither is what happens in the first fifth of the soak, in which pools fill up.

What to do: repeat it with more minutes, which narrows the interval; then run the session alone, and
look at what its runtime keeps for each run or for each input shape.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.soak_record import SoakRecord

from .evidence import Evidence

CODE = "memory-leak"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for the host and one for the device, if they leak."""
    soak = evidence.passes.records.get("soak")
    if isinstance(soak, SoakRecord):
        for place, growth in soak.leaks().items():
            estimate, low, high = (value / 1e6 for value in growth.per_minute)
            yield Finding(
                CODE,
                f"over a soak of {soak.lasted_s / 60:.1f} minutes, {place} memory grew by"
                f" {estimate:.2f} MB a minute (95 % interval {low:.2f} to {high:.2f})",
                "repeat it with more minutes of `soak`",
            )
