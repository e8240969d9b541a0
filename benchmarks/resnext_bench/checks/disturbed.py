"""# disturbed-machine

Something else used the processors or the GPU during some rounds: other processes, the host below a
virtual machine (steal time), the control group's CPU quota, or clocks that heat or power held down.
The kernel's and NVML's counters around each visit tell. Such rounds are left out of the statistics
and are measured again, until time or rounds are up.

A row whose undisturbed rounds suffice stays VALID, with a warning that names their number. Six
rounds are needed for an interval, or as many as were planned if those are fewer. A row with too few
is INVALID: its median is that of a machine shared with something else.

What to do: stop other work, or give more `rounds` (or a longer `max_seconds`, if there is a limit).
In a container, its CPU quota may be too small for the number of `threads`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "disturbed-machine"
#: Undisturbed rounds that suffice.
ENOUGH_ROUNDS = 6


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One if rounds were disturbed: a refusal if the others do not suffice, else a warning."""
    samples = evidence.samples
    total, bad = len(samples.host_ns), len(samples.disturbed)
    if not bad:
        return
    left = total - bad
    which = f"{bad} of {total}" if left else f"all {total}"
    disturbed = f"{which} rounds were disturbed by {_causes(samples.disturbed.values())}"
    if left >= min(evidence.planned_rounds, ENOUGH_ROUNDS):
        message = f"{disturbed}; they are left out, and the other {left} suffice"
        yield Finding(CODE, message, severity="warning")
    else:
        message = f"{disturbed}; the other {left} do not suffice" if left else disturbed
        yield Finding(CODE, message, "stop other work, or give more `rounds`")


def _causes(disturbances: Iterable[tuple[str, ...]]) -> str:
    """The causes, the most frequent one first, each as it was in its last round."""
    rounds: Counter[str] = Counter()
    last: dict[str, str] = {}
    for why in (why for each in disturbances for why in each):
        kind = why.partition(" (")[0]
        rounds[kind] += 1
        last[kind] = why
    return ", and by ".join(last[kind] for kind, _ in rounds.most_common())
