"""# loadgen-invalid

MLPerf's LoadGen called its run of this row INVALID: too few queries for its percentile, too short,
or, in the server scenario, more than 1 % of the queries above the target latency. The message has
its own recommendations.

What to do: give a longer `duration`; for the server scenario a lower rate or a longer `slo`.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.loadgen_record import LoadGenRecord

from .evidence import Evidence

CODE = "loadgen-invalid"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One if LoadGen says so."""
    record = evidence.passes.records.get("loadgen")
    if isinstance(record, LoadGenRecord) and record.result == "INVALID":
        why = " ".join(record.recommendations) or "it gives no reason"
        yield Finding(
            CODE, f"LoadGen {record.scenario}: INVALID: {why}", "give a longer `duration`"
        )
