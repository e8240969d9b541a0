"""Ratios of times measured side by side, within a round, so that drift cancels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Ratio(NamedTuple):
    """How many times as long one candidate takes as another.

    Attributes:
        median: over the rounds.
        low: lowest of any round.
        high: highest of any round.
    """

    median: float
    low: float
    high: float


def ratio(times: Sequence[float], others: Sequence[float]) -> Ratio:
    """``times`` over ``others``, which hold one value for each round, in the same unit.

    Raises:
        ValueError: they differ in length.
    """
    ratios = [own / (other or 1) for own, other in zip(times, others, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def ratio_by_round(times: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> Ratio:
    """`ratio` of raw samples, many for each round: the median stands for its round.

    Rounds in which one of the two has no sample are skipped.

    Raises:
        ValueError: they differ in their number of rounds.
    """
    both = [(own, other) for own, other in zip(times, others, strict=True) if own and other]
    medians = [[statistics.median(side) for side in sides] for sides in zip(*both, strict=True)]
    return ratio(*medians)
