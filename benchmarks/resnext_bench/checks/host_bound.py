"""# host-bound

A warning, which does not make a row invalid: queuing one run takes the host more than 0.8 of the
time that the device needs for it. The device may wait for the host, so its times say little about
its speed, and another host will give another throughput. The time to queue is taken with the
stream idle, since a full queue makes the host wait for the device.

What to do: use a CUDA graph (`cuda_graph`) or a larger `batch`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "host-bound"
#: Largest time to queue a run, relative to the device's time for it.
MOST_ENQUEUE = 0.8


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The warning, if it applies."""
    for timing in evidence.timings:
        if timing.boundary == "host" or not evidence.samples.enqueue_ns:
            continue
        share = statistics.median(evidence.samples.enqueue_ns) / (timing.stats.median_ns or 1)
        if share > MOST_ENQUEUE:
            yield Finding(
                CODE,
                f"queuing a run takes the host {share:.0%} of the device's time for it",
                "use a CUDA graph, `cuda_graph`, or a larger `batch`",
                severity="warning",
            )
