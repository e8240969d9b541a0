"""# loadgen-invalid

MLPerf's LoadGen called its run of this row INVALID: too few queries for its percentile, too short,
or, in the server scenario, more than 1 % of the queries above the target latency. The message has
its own recommendations.

What to do: give a longer `duration`; for the server scenario a lower rate or a longer `slo`. If
LoadGen asks for another expected latency or QPS, the row ran faster than in its timed rounds, which
these are from: measure again on a calm machine.
"""

from __future__ import annotations

import re
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
        yield Finding(CODE, f"LoadGen {record.scenario}: INVALID: {why}", _remedy(why))


def _remedy(why: str) -> str:
    if re.search("expected (latency|QPS)", why):  # which are those of the timed rounds
        return "measure again on a calm machine: the timed rounds were slower than LoadGen's runs"
    if "Reduce target QPS" in why:
        return "give a lower rate as `load`, or a longer `slo`"
    return "give a longer `duration`"
