"""# beyond-the-limit

A warning, which does not make a row invalid: the row takes less time than the floor of fused
blocks, by more than 5 %. The floor is computed from the ceilings of this machine, which were
measured once and are kept; so they were measured while something else used the machine, or its
clock was lower then. On a processor whose cache holds the whole network's activations, the memory
part of the floor can be beaten as well.

What to do: measure the ceilings again on a quiet machine, with `resnext-bench limits --again`.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "beyond-the-limit"
#: Largest share of the floor that a row may reach.
MOST_SHARE = 1.05


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The warning, if the row is faster than it can be."""
    distance = evidence.distance
    if distance is not None and distance.share > MOST_SHARE:
        yield Finding(
            CODE,
            f"it reaches {distance.share:.0%} of the limit ({distance.ceiling}): the machine was"
            " disturbed when its ceilings were measured",
            "measure them `again` on a quiet machine, with the command limits",
            severity="warning",
        )
