"""# unsteady-machine

The undisturbed rounds of a row do not agree: from their first third to their last the median
changed by more than 15 %, or the median round is more than 15 % above the quietest one. Something
that the counters do not show changed the machine's speed: a clock, heat, a neighbor on the same
host that takes the memory's bandwidth. The median is then a matter of chance.

What to do: stop other work, or give a longer `max_seconds` or `duration`. On a laptop or a small
cloud machine, wait until it has cooled down or its credits are back.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext_bench import steadiness

from .evidence import Evidence

CODE = "unsteady-machine"
_HINT = "stop other work, or give a longer `duration`"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for each boundary whose rounds drift, or lie far above the quietest."""
    bad, total = len(evidence.samples.disturbed), len(evidence.samples.host_ns)
    besides = f" ({bad} of {total} rounds, known to be disturbed, are not among them)" * bool(bad)
    for timing in evidence.timings:
        rounds = list(timing.quiet_ns.values())
        change, above = steadiness.drift(rounds), steadiness.above_quietest(rounds)
        if abs(change) > steadiness.MOST_DRIFT:
            yield Finding(
                CODE,
                f"the {timing.boundary} times drifted by {change:+.0%} from the first third of the"
                f" rounds to the last{besides}",
                _HINT,
            )
        elif above > steadiness.MOST_ABOVE_QUIETEST:
            yield Finding(
                CODE,
                f"the median {timing.boundary} round is {above:.0%} slower than the quietest"
                f"{besides}: the machine was not steady",
                _HINT,
            )
