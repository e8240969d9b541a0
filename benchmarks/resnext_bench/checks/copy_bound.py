"""# copy-bound

A warning, which does not make a row invalid: end to end, a run takes more than twice as long as the
device computes, and the time to queue it does not explain that. Most of it are copies between host
and device, so a faster network would hardly be faster end to end.

What to do: export with `bake_preprocessing`, which copies bytes instead of floats; keep inputs on
the device; or compare device times.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "copy-bound"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The warning, if it applies."""
    medians = {timing.boundary: timing.stats.median_ns for timing in evidence.timings}
    host = medians.pop("host", None)
    queued = statistics.median(evidence.samples.enqueue_ns or [0])
    for device in medians.values():
        # Queuing overlaps with computing, as far as the device has begun.
        if host is not None and host - max(device, queued) > device:
            yield Finding(
                CODE,
                f"end to end, a run takes {host / (device or 1):.1f} times as long as the device"
                " computes: most of it is copies",
                "export with `bake_preprocessing`, or compare device times",
                severity="warning",
            )
