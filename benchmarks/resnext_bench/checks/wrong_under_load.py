"""# wrong-under-load

The last outputs of each worker under load are compared with the output of the timed runs, or of
the same input alone. They differ by more than 0.1 % of the logits' RMS, or are not
finite. Each worker has another input, so that answers which go to the wrong request are seen as
well. Requests in flight at once disturb each other: the runtime shares a buffer between streams, or
reuses one too early.

What to do: report it to the runtime's maintainers; until then use `streams` 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.load_record import LoadRecord
from resnext_bench.scenarios.loadgen_record import LoadGenRecord

from .evidence import Evidence

CODE = "wrong-under-load"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for the first load with a wrong output, and for such a LoadGen run."""
    record = evidence.passes.records.get("load")
    if isinstance(record, LoadRecord):
        for probe in record.probes:
            if probe.wrong:
                yield Finding(
                    CODE,
                    f"wrong output under load, {probe.label}: {probe.wrong}",
                    "use `streams` 1",
                )
                break
    run = evidence.passes.records.get("loadgen")
    if isinstance(run, LoadGenRecord) and run.wrong:
        yield Finding(CODE, f"wrong output in the LoadGen run: {run.wrong}", "use `streams` 1")
