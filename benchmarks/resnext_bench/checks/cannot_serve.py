"""# cannot-serve

Under load (`--load poisson:RATE`) more requests arrived than the row answers: its runs take too
long for the rate (their mean time, at 99 % confidence), a request met a full queue and was dropped,
or the workers were always busy while the queue grew. Latencies then depend only on how long the
load lasted.

What to do: give a rate below the one that the message names; or raise the row's throughput with a
larger batch, more streams or a faster backend. `--load poisson --slo 20ms` searches the rate.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.load_record import LoadRecord, number

from .evidence import Evidence

CODE = "cannot-serve"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for a load that is too high; the probes of a search may be."""
    record = evidence.passes.records.get("load")
    if not isinstance(record, LoadRecord) or record.searched:
        return
    for probe in record.probes:
        if probe.serves_per_s is not None:
            yield Finding(
                CODE,
                f"cannot serve {probe.label}: it answers at most {number(probe.serves_per_s)}/s",
                "give a lower rate as `load`, or more `streams`",
            )
        elif probe.dropped:
            yield Finding(
                CODE,
                f"{probe.dropped} requests at {probe.label} were dropped, because the queue was"
                f" full; the slowest answer took {number(probe.max_ns / 1e6, 3)} ms",
                "give a lower rate as `load`, or stop other work",
            )
