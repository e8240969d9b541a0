"""Distribution-free estimates with intervals, from one value for each round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

#: Confidence of every interval, unless said otherwise.
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate and its confidence interval.

    Attributes:
        estimate: Hodges-Lehmann: the median of the means of all pairs.
        low: lower end.
        high: upper end.
    """

    estimate: float
    low: float
    high: float


def signed_rank(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The Hodges-Lehmann estimate of ``values`` with the exact interval of Wilcoxon's signed-rank
    test.

    Pooled samples, and a bootstrap of few rounds, give intervals that are too narrow, because the
    samples of one round are not independent of each other.

    Args:
        values: one for each round, for example log ratios; symmetrical around their center.
        confidence: of the interval, between 0 and 1.

    Returns:
        None if there are too few values for that confidence: 0.95 takes six.
    """
    outside = _rank_outside(len(values), confidence)
    if outside is None:
        return None
    means = sorted(
        (values[first] + values[second]) / 2
        for first in range(len(values))
        for second in range(first + 1)
    )
    return Interval(statistics.median(means), means[outside - 1], means[-outside])


def log_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """`signed_rank` of the logarithms of ``values``, which are positive, in their own unit."""
    interval = signed_rank([math.log(value) for value in values], confidence)
    return None if interval is None else Interval(*map(math.exp, interval))


@lru_cache(maxsize=1024)
def _rank_outside(count: int, confidence: float) -> int | None:
    """The rank from either end of the sorted pair means at which the interval ends; None if even
    the outermost is too confident.
    """
    # ways[s]: number of subsets of the ranks 1..count with sum s, all equally likely
    ways = [1] + [0] * (count * (count + 1) // 2)
    for rank in range(1, count + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    allowed, below, outside = (1 - confidence) / 2 * 2**count, 0, 0
    while below + ways[outside] <= allowed:
        below += ways[outside]
        outside += 1
    return outside or None
