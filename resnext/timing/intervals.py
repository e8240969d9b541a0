"""Estimates with intervals and p-values, from one value for each round.

Both rank tests are exact: the null distribution is counted, not approximated. An interval and a
p-value of the same values agree: the interval lies beyond a bound if and only if the p-value of
"within that bound" is at most 1 - confidence.
"""

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
        estimate: Hodges-Lehmann of a rank test, the mean of Student's t.
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
    return _interval(_pair_means(values), _subset_sums(len(values)), confidence)


def signed_rank_p(values: Sequence[float], bound: float) -> float:
    """Two-sided p-value of "the center of ``values`` is within ``bound`` of 0"."""
    return _p_within(_pair_means(values), _subset_sums(len(values)), bound)


def rank_sum(
    values: Sequence[float], others: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
    """The Hodges-Lehmann shift from ``others`` to ``values``, with the exact interval of the
    rank-sum test (Mann-Whitney): for values that are not paired, of runs made at different times.

    Args:
        values: one for each round, independent of each other: a run that drifted has no such
            values.
        others: the same of the other run; any number.
        confidence: of the interval, between 0 and 1.

    Returns:
        None if there are too few values for that confidence: 0.95 takes four in both.
    """
    ways = _rank_sums(len(values), len(others))
    return _interval(_differences(values, others), ways, confidence)


def rank_sum_p(values: Sequence[float], others: Sequence[float], bound: float) -> float:
    """Two-sided p-value of "the shift from ``others`` to ``values`` is within ``bound`` of 0"."""
    return _p_within(_differences(values, others), _rank_sums(len(values), len(others)), bound)


def student_t(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The mean of ``values`` with the interval of Student's t: for few estimates that are each
    nearly normal, such as one for each pair of processes.

    Returns:
        None for fewer than two values.
    """
    from scipy.stats import t

    if len(values) < 2:
        return None
    mean, error = _mean_and_error(values)
    reach = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def student_t_p(values: Sequence[float], bound: float) -> float:
    """Two-sided p-value of "the mean is within ``bound`` of 0", by Student's t."""
    from scipy.stats import t

    mean, error = _mean_and_error(values)
    beyond = abs(mean) - bound
    if error == 0:
        return 0.0 if beyond > 0 else 1.0
    return min(1.0, 2 * float(t.sf(beyond / error, len(values) - 1)))


def log_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """`signed_rank` of the logarithms of ``values``, which are positive, in their own unit."""
    interval = signed_rank([math.log(value) for value in values], confidence)
    return None if interval is None else Interval(*map(math.exp, interval))


def drifted(values: Sequence[float], confidence: float = CONFIDENCE) -> bool:
    """Whether neighbors among ``values``, one for each round in order, are more alike than chance
    makes them: Bartels' rank version of von Neumann's ratio, one-sided.

    Args:
        values: any unit.
        confidence: probability that values in random order are not called drifting.
    """
    count = len(values)
    if count < 4 or len(set(values)) < count / 2:
        return False
    order = sorted(range(count), key=lambda index: values[index])
    ranks = {index: rank for rank, index in enumerate(order)}
    steps = sum((ranks[index] - ranks[index + 1]) ** 2 for index in range(count - 1))
    ratio = steps / sum((rank - (count - 1) / 2) ** 2 for rank in range(count))
    variance = 4 * (count - 2) * (5 * count**2 - 2 * count - 9) / (5 * count * (count + 1))
    variance /= (count - 1) ** 2
    return ratio < 2 - statistics.NormalDist().inv_cdf(confidence) * math.sqrt(variance)


def _pair_means(values: Sequence[float]) -> list[float]:
    return sorted(
        (values[first] + values[second]) / 2
        for first in range(len(values))
        for second in range(first + 1)
    )


def _differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return sorted(value - other for value in values for other in others)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def _interval(pairs: Sequence[float], ways: Sequence[int], confidence: float) -> Interval | None:
    """The median of the sorted ``pairs``, and the two that end the interval.

    Args:
        pairs: their number above the true center is the test's statistic.
        ways: out of how many equally likely cases it has each value, 0 first.
        confidence: of the interval.
    """
    allowed, below, outside = (1 - confidence) / 2 * sum(ways), 0, 0
    while below + ways[outside] <= allowed:
        below += ways[outside]
        outside += 1
    if outside == 0:  # even the outermost pairs are too confident
        return None
    return Interval(statistics.median(pairs), pairs[outside - 1], pairs[-outside])


def _p_within(pairs: Sequence[float], ways: Sequence[int], bound: float) -> float:
    above = sum(pair > bound for pair in pairs)
    below = sum(pair < -bound for pair in pairs)
    return min(1.0, 2 * sum(ways[max(above, below) :]) / sum(ways))


@lru_cache(maxsize=128)
def _subset_sums(count: int) -> tuple[int, ...]:
    """Number of subsets of the ranks 1..``count`` with each sum, all equally likely."""
    ways = [1] + [0] * (count * (count + 1) // 2)
    for rank in range(1, count + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return tuple(ways)


@lru_cache(maxsize=128)
def _rank_sums(count: int, other: int) -> tuple[int, ...]:
    """Number of orders of ``count`` and ``other`` values with each number of pairs in which the
    first is above the second, all equally likely: the coefficients of a Gaussian binomial.
    """
    ways = [1] + [0] * (count * other)
    for step in range(1, count + 1):
        for total in range(len(ways) - 1, other + step - 1, -1):
            ways[total] -= ways[total - other - step]
        for total in range(step, len(ways)):
            ways[total] += ways[total - step]
    return tuple(ways)
