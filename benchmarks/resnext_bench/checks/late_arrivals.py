"""# late-arrivals

Under load (`--load poisson:RATE`) a thread releases each request at its planned time. It was late
itself: at the 99th percentile by more than 0.2 ms and by more than 10 % of the 99th percentile of
the latency. Latencies count from the planned time, so they are too long, never too short.

What to do: stop other work; leave a processor to the arrivals with a smaller `threads`; or give a
lower rate.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.load_record import LoadRecord, Probe

from .evidence import Evidence

CODE = "late-arrivals"
#: Largest lateness, as a share of the latency, and nanoseconds that are always accepted.
_MOST_SHARE, _ALWAYS_NS = 0.10, 200_000


def late(probe: Probe) -> bool:
    """Whether the thread of arrivals was late."""
    if probe.late_ns is None:
        return False
    latency = probe.p99_ns if probe.p99_ns is not None else probe.max_ns
    return probe.late_ns > max(_ALWAYS_NS, _MOST_SHARE * latency)


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for a fixed load with late arrivals, or for the result of a search."""
    record = evidence.passes.records.get("load")
    if not isinstance(record, LoadRecord):
        return
    probes = record.probes
    if record.searched:
        probes = tuple(one for one in probes if one.offered_per_s == record.largest_per_s)
    for probe in probes:
        if probe.serves_per_s is None and late(probe):
            yield Finding(
                CODE,
                f"requests at {probe.label} were released {(probe.late_ns or 0) / 1e6:.2g} ms late"
                " at the 99th percentile, by the thread of arrivals",
                "stop other work, or give fewer `threads` or a lower rate",
            )
            return
