"""Whether the rounds of one row tell one story: no drift, no level far above the quietest."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

#: Largest change between the first and the last third of the rounds.
MOST_DRIFT = 0.15
#: Largest excess of the median round over the quietest one. On a quiet shared machine it is 2 to
#: 10 %; beside one foreign process that the kernel's counters miss it would be 50 % and more.
MOST_ABOVE_QUIETEST = 0.15
#: Fewer rounds than this have no thirds.
_LEAST_ROUNDS = 3


def drift(rounds: Sequence[Sequence[int]]) -> float:
    """The median round of the last third over that of the first third, less 1; 0 below three
    rounds.
    """
    medians = [statistics.median(burst) for burst in rounds if burst]
    if len(medians) < _LEAST_ROUNDS:
        return 0.0
    third = len(medians) // 3
    return statistics.median(medians[-third:]) / (statistics.median(medians[:third]) or 1) - 1


def above_quietest(rounds: Sequence[Sequence[int]]) -> float:
    """The median round over the quietest round, less 1."""
    medians = [statistics.median(burst) for burst in rounds if burst]
    return statistics.median(medians) / (min(medians) or 1) - 1 if medians else 0.0


def steady(rounds: Sequence[Sequence[int]]) -> bool:
    """Whether ``rounds``, nanoseconds by round, neither drift nor lie far above the quietest."""
    return abs(drift(rounds)) <= MOST_DRIFT and above_quietest(rounds) <= MOST_ABOVE_QUIETEST
