"""# scenario-failed

A scenario that was requested beside the timed rounds (load, a soak, a cold start, energy) ended
with an error, or was not reached in time. The times of the row stand; what the scenario was to show
is missing.

What to do: the message says why; run the scenario alone on this backend.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "scenario-failed"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for each scenario with an error."""
    for name, error in evidence.passes.errors.items():
        yield Finding(CODE, f"{name.replace('_', ' ')}: {error.message}", error.hint or "")
