"""# device-clock

Device times are taken between CUDA events. Their sum must account for the host's time around the
same runs: not for more than there was, and not for a small part of it. If it does not, then the
events are not around the work, for example on another stream. Launch-bound work leaves gaps, so
30 % is enough.

What to do: believe the host's times; report it as a bug, with the run's JSON file.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "device-clock"
#: Share of the host's time around device-timed runs that their times must add up to.
LEAST_ACCOUNTED, MOST_ACCOUNTED = 0.3, 1.05


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One if the device times do not fit the host's time around them."""
    samples = evidence.samples
    if not samples.device_ns:
        return
    accounted = sum(map(sum, samples.device_ns)) / max(sum(samples.device_wall_ns), 1)
    if not LEAST_ACCOUNTED <= accounted <= MOST_ACCOUNTED:
        yield Finding(
            CODE,
            f"the device times add up to {accounted:.0%} of the time around them: the events are"
            " not around the work",
        )
