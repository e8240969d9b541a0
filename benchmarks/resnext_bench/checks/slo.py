"""# slo-not-met

Under load, more than 1 % of the requests take longer than the SLO (`--slo`); or it cannot be told
whether they do, at 99 % confidence. A search for the largest rate has this finding if no rate was
shown to meet the SLO.

The SLO is met if so few requests exceed it that, with 99 % confidence, no more than 1 % of all
requests would: none of 662, at most one of 838, and so on. It is missed if as many exceed it as
would be unlikely, at 1 %, if only 1 % of all did. Between the two it cannot be told.

What to do: give a lower rate or a longer SLO; if it cannot be told, as many more requests as the
message says, with a longer `duration`.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.load_record import LoadRecord
from resnext_bench.scenarios.load_text import verdict_line

from .evidence import Evidence

CODE = "slo-not-met"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One if the SLO was not shown to be met."""
    record = evidence.passes.records.get("load")
    if not isinstance(record, LoadRecord) or record.slo_ns is None:
        return
    if record.searched:
        if record.largest_per_s is None:
            more = "more time, " if record.cut else ""
            hint = f"give {more}a longer `slo` or a smaller `batch`"
            yield Finding(CODE, verdict_line(record), hint)
        return
    probe = record.probes[-1]
    if probe.dropped or probe.serves_per_s is not None or probe.wrong:  # which say more
        return
    if probe.verdict == "missed":
        share = (probe.over_slo or 0) / probe.requests
        yield Finding(
            CODE,
            f"{verdict_line(record)}, {share:.1%} of {probe.requests} requests were above it",
            "give a lower rate as `load`, or a longer `slo`",
        )
    elif probe.verdict == "cannot tell":
        yield Finding(CODE, verdict_line(record), "give a longer `duration`")
