"""Estimates with intervals and p-values, from one value for each round.

Both rank tests are exact up to `EXACT` values: the null distribution is counted. Beyond that it is
normal, to a thousandth. An interval and a p-value of the same values agree: the interval lies
beyond a bound if and only if the p-value of "within that bound" is at most 1 - confidence.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Confidence of every interval, unless said otherwise.
CONFIDENCE = 0.95
#: Most values of a side for which a rank test is exact.
EXACT = 50
#: More values than this are merged with their neighbors.
_MOST = 500


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
    merged = _merged(values)
    return _interval(_pair_means(merged), _signed_rank_null(len(merged)), confidence)


def signed_rank_p(values: Sequence[float], bound: float) -> float:
    """Two-sided p-value of "the center of ``values`` is within ``bound`` of 0"."""
    merged = _merged(values)
    return _p_within(_pair_means(merged), _signed_rank_null(len(merged)), bound)


def hodges_lehmann(values: Sequence[float]) -> float:
    """The estimate of `signed_rank`, for any number of values from one on: the median of the means
    of all pairs, each value with itself included.
    """
    return float(np.median(_pair_means(_merged(values))))


def signed_rank_above_p(values: Sequence[float], bound: float = 0.0) -> float:
    """One-sided p-value of "the center of ``values`` is at most ``bound``"."""
    merged = _merged(values)
    above = int((_pair_means(merged) > bound).sum())
    return _signed_rank_null(len(merged)).at_least(above)


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
    first, second = _merged(values), _merged(others)
    null = _rank_sum_null(len(first), len(second))
    return _interval(_differences(first, second), null, confidence)


def rank_sum_p(values: Sequence[float], others: Sequence[float], bound: float) -> float:
    """Two-sided p-value of "the shift from ``others`` to ``values`` is within ``bound`` of 0"."""
    first, second = _merged(values), _merged(others)
    return _p_within(_differences(first, second), _rank_sum_null(len(first), len(second)), bound)


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
    return ratio < 2 - NormalDist().inv_cdf(confidence) * math.sqrt(variance)


def _merged(values: Sequence[float]) -> NDArray[np.float64]:
    """``values``, neighbors merged if there are too many: all pairs are counted."""
    array = np.asarray(values, np.float64)
    if len(array) <= _MOST:
        return array
    return np.array([block.mean() for block in np.array_split(array, _MOST)])


def _pair_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def _differences(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sort(np.subtract.outer(values, others), axis=None)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


class _Null(NamedTuple):
    """Distribution of a rank statistic if there is no difference: symmetrical around ``mean``.

    Attributes:
        mean: expected value.
        deviation: standard deviation.
        ways: out of how many equally likely cases it has each value, 0 first; None means normal.
    """

    mean: float
    deviation: float
    ways: tuple[int, ...] | None

    def at_least(self, value: int) -> float:
        """Probability of ``value`` or more."""
        if self.ways is None:
            return NormalDist().cdf((self.mean + 0.5 - value) / (self.deviation or 1.0))
        return sum(self.ways[value:]) / sum(self.ways)

    def outside(self, probability: float) -> int:
        """The largest number n for which fewer than n has at most that ``probability``."""
        if self.ways is None:
            reach = NormalDist().inv_cdf(1 - probability) * self.deviation
            return math.floor(self.mean + 0.5 - reach)
        allowed, below, number = probability * sum(self.ways), 0, 0
        while below + self.ways[number] <= allowed:
            below += self.ways[number]
            number += 1
        return number


def _signed_rank_null(count: int) -> _Null:
    mean = count * (count + 1) / 4
    deviation = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return _Null(mean, deviation, _subset_sums(count) if count <= EXACT else None)


def _rank_sum_null(count: int, other: int) -> _Null:
    deviation = math.sqrt(count * other * (count + other + 1) / 12)
    exact = max(count, other) <= EXACT
    return _Null(count * other / 2, deviation, _rank_sums(count, other) if exact else None)


def _interval(pairs: NDArray[np.float64], null: _Null, confidence: float) -> Interval | None:
    """The median of the sorted ``pairs``, and the two that end the interval.

    Args:
        pairs: their number above the true center is the statistic.
        null: its distribution.
        confidence: of the interval.
    """
    outside = null.outside((1 - confidence) / 2)
    if outside <= 0:  # even the outermost pairs are too confident
        return None
    low, high = pairs[outside - 1], pairs[-outside]
    return Interval(float(np.median(pairs)), float(low), float(high))


def _p_within(pairs: NDArray[np.float64], null: _Null, bound: float) -> float:
    beyond = max(int((pairs > bound).sum()), int((pairs < -bound).sum()))
    return min(1.0, 2 * null.at_least(beyond))


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
