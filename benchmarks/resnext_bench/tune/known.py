"""What was measured of merged groups on other processors of this kind, and the order that a search
makes of it.
"""

from __future__ import annotations

from resnext_bench.cases import Merge
from resnext_bench.merge_priors import Prior

from .fallen import label
from .record import CandidateRecord, TuneRecord

#: What stands above `priors`.
KNOWN = "Known of processors of this kind"
#: Ranks of a merge that is not expected to pay: behind every other build without a compiler.
_LATE = 6


def ranks_back(prior: Prior | None, merge: Merge) -> int:
    """Ranks of build cost that a candidate goes back by: forward by the one that a merge costs if
    its width was faster, far back if none was.
    """
    if prior is None or merge is None:
        return 0
    if prior.width is None:
        return _LATE
    return -1 if merge == prior.width else 0


def told(prior: Prior | None, merge: Merge) -> str:
    """Why a candidate is not in its usual place; "" if it is."""
    back = ranks_back(prior, merge)
    if prior is None or not back:
        return ""
    place = "tried early" if back < 0 else "tried late"
    return f"{place}: merging made {prior.precision} {prior.result} on {prior.where}"


def priors(record: TuneRecord) -> list[str]:
    """A line for each reason to try candidates early or late."""
    alike: dict[str, list[CandidateRecord]] = {}
    for one in filter(lambda one: one.prior, record.candidates):
        alike.setdefault(one.prior, []).append(one)
    return [f"{_label(group)}: {prior}" for prior, group in alike.items()]


def _label(group: list[CandidateRecord]) -> str:
    return label(group) if len(group) == 1 else f"{label(group)} with merged groups"
