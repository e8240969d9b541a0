"""# disturbed-machine

Something else used the processors or the GPU during some rounds: other processes, the host below a
virtual machine (steal time), the control group's CPU quota, or clocks that heat or power held down.
The kernel's and NVML's counters around each visit tell. Such rounds are left out of the statistics
and are measured again, until time or rounds are up.

A row whose undisturbed rounds suffice stays VALID, with a warning that names their number. Six
rounds are needed for an interval, or as many as were planned if those are fewer. A row with too few
is INVALID: its median is that of a machine shared with something else.

What to do: stop other work, or give a longer `max_seconds` or more `rounds`. In a container, its
CPU quota may be too small for the number of `threads`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

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
    causes = Counter(why.partition(" (")[0] for each in samples.disturbed.values() for why in each)
    worst = {why.partition(" (")[0]: why for each in samples.disturbed.values() for why in each}
    named = "; ".join(f"{count} by {worst[cause]}" for cause, count in causes.most_common())
    left = total - bad
    if left >= min(evidence.planned_rounds, ENOUGH_ROUNDS):
        yield Finding(
            CODE,
            f"{bad} of {total} rounds were disturbed and are left out ({named}); the other {left}"
            " suffice",
            severity="warning",
        )
    else:
        yield Finding(
            CODE,
            f"{bad} of {total} rounds were disturbed ({named}), and the other {left} do not"
            " suffice",
            "stop other work, or give a longer `max_seconds`",
        )
