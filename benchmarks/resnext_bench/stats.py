"""Times as a run stores them, with their statistics: derived from raw nanoseconds and from nothing
else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

from resnext.artifact.specs import Strict
from resnext.runtimes.session import Boundary

#: Confidence with which a reported percentile is not too low (MLPerf Inference's early stopping
#: uses the same).
CONFIDENCE = 0.99
#: Minimum number of samples for p50, p90 and p99 at that confidence.
LEAST_SAMPLES = {50: 11, 90: 64, 99: 662}


class Stats(Strict):
    """Derived statistics of one case, times in nanoseconds.

    Attributes:
        count: timed runs.
        median_ns: median.
        mean_ns: arithmetic mean.
        min_ns: fastest run.
        max_ns: slowest run.
        p90_ns: with 99 % confidence, 90 % of runs are no slower; None below 64 samples.
        p99_ns: the same for 99 %; None below 662 samples.
        cv: coefficient of variation, standard deviation over mean.
        round_spread: interquartile range of the rounds' medians over their median: drift.
        images_per_s: batch size over the median.
    """

    count: int
    median_ns: float
    mean_ns: float
    min_ns: int
    max_ns: int
    p90_ns: int | None
    p99_ns: int | None
    cv: float
    round_spread: float
    images_per_s: float


class Timing(Strict):
    """Times of one case at one boundary.

    Attributes:
        boundary: what the times enclose; times of different boundaries are never compared.
        rounds_ns: raw nanoseconds, one list for each round.
        stats: derived from them.
        speedup: times faster than the first backend at the same batch and boundary: (median,
            lowest, highest) over rounds; None if one of the two is not valid.
    """

    boundary: Boundary
    rounds_ns: tuple[tuple[int, ...], ...]
    stats: Stats
    speedup: tuple[float, float, float] | None = None


def timing_of(boundary: Boundary, rounds: Sequence[Sequence[int]], batch: int) -> Timing:
    """The times of a case of ``batch`` images at one boundary, nanoseconds by round."""
    return Timing(
        boundary=boundary, rounds_ns=tuple(map(tuple, rounds)), stats=derive(rounds, batch)
    )


def derive(rounds: Sequence[Sequence[int]], batch: int) -> Stats:
    """Statistics of the samples of all ``rounds`` (nanoseconds) of a case of ``batch`` images."""
    samples = [sample for burst in rounds for sample in burst]
    median, mean = statistics.median(samples), statistics.fmean(samples)
    return Stats(
        count=len(samples),
        median_ns=median,
        mean_ns=mean,
        min_ns=min(samples),
        max_ns=max(samples),
        p90_ns=percentile_bound(samples, 90),
        p99_ns=percentile_bound(samples, 99),
        cv=statistics.pstdev(samples) / mean if mean else 0.0,
        round_spread=round_spread(rounds),
        images_per_s=batch / (median / 1e9) if median else math.inf,
    )


def round_spread(rounds: Sequence[Sequence[int]]) -> float:
    """Interquartile range of the rounds' medians over their median; 0 for fewer than three
    rounds.
    """
    medians = sorted(statistics.median(burst) for burst in rounds if burst)
    if len(medians) < 3:
        return 0.0
    low, middle, high = statistics.quantiles(medians, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def percentile_bound(samples: Sequence[int], percent: int) -> int | None:
    """A value that with 99 % confidence is at or above the true percentile; None if there are too
    few samples.

    MLPerf Inference's early-stopping estimate: of q samples, find the largest t for which a
    binomial of q trials and probability 1 - p is at most t with probability 1 %; drop the t - 1
    slowest, and report the slowest that is left.
    """
    drop = _droppable(len(samples), percent)
    return None if drop is None else sorted(samples)[len(samples) - 1 - drop]


@lru_cache(maxsize=1024)
def _droppable(count: int, percent: int) -> int | None:
    from scipy.stats import binom

    over = 1 - percent / 100
    # The largest t is found from above the expected number downwards; its cdf grows with t.
    low, high = 0, math.ceil(count * over) + 1
    while low < high:
        middle = (low + high + 1) // 2
        if binom.cdf(middle, count, over) <= 1 - CONFIDENCE:
            low = middle
        else:
            high = middle - 1
    return low - 1 if low >= 1 else None
