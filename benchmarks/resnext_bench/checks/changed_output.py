"""# changed-output

During a soak, a run gave another output than the first run of the same input: by more than
rounding, and by more than four times what the first runs differed by. Something that the session
keeps was overwritten, or a buffer is shared between batch sizes or requests.

What to do: the parity check examines batch sizes one after the other and says which law is broken.
If that finds nothing, the fault depends on time or on memory: run the soak alone, and test the
machine's memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench.scenarios.soak_record import SoakRecord

from .evidence import Evidence

CODE = "changed-output"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One, if an output changed."""
    soak = evidence.passes.records.get("soak")
    if isinstance(soak, SoakRecord) and soak.changed_s is not None:
        worst = "not finite" if soak.output_error is None else f"{soak.output_error:.1e}"
        yield Finding(
            CODE,
            f"{soak.changed_s:.0f} s into a soak, the same input gave another output (error"
            f" {worst}, allowed {soak.output_limit:.1e})",
            "examine its batch sizes with the parity check",
        )
