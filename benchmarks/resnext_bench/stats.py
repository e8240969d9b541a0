"""Times as a run stores them, with their statistics: derived from raw nanoseconds and from nothing
else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from resnext.artifact.specs import Strict
from resnext.runtimes.session import Boundary
from resnext.timing.cold import Cache
from resnext.timing.intervals import Interval, log_interval

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
        median_low_ns: lower end of the median's 95 % interval, from the medians of the rounds
            (`resnext.timing.intervals`); None below six rounds.
        median_high_ns: upper end.
        mean_ns: arithmetic mean.
        min_ns: fastest run.
        max_ns: slowest run.
        p90_ns: with 99 % confidence, 90 % of runs are no slower; None below 64 samples.
        p99_ns: the same for 99 %; None below 662 samples.
        cv: coefficient of variation, standard deviation over mean.
        round_spread: interquartile range of the rounds' medians over their median.
        images_per_s: batch size times requests in flight, over the median.
    """

    count: int
    median_ns: float
    median_low_ns: float | None = None
    median_high_ns: float | None = None
    mean_ns: float
    min_ns: int
    max_ns: int
    p90_ns: int | None
    p99_ns: int | None
    cv: float
    round_spread: float
    images_per_s: float

    @property
    def precision(self) -> float | None:
        """Half the width of the median's interval over the median; None if it has none."""
        if self.median_low_ns is None or self.median_high_ns is None:
            return None
        return (self.median_high_ns - self.median_low_ns) / 2 / (self.median_ns or 1)


class Timing(Strict):
    """Times of one case at one boundary.

    Attributes:
        boundary: what the times enclose; times of different boundaries are never compared.
        cache: ``hot``: each run follows another one; ``cold``: the caches are emptied before each;
            the two are never compared.
        rounds_ns: raw nanoseconds, one list for each round.
        disturbed: indices of the rounds that something else disturbed.
        stats: derived from the undisturbed rounds, or from all if there are none.
        speedup: times faster than the first backend at the same batch and boundary: the estimate
            and its 95 % interval, over the rounds that were undisturbed for both (in files from
            before there were intervals: median, lowest and highest of all rounds). None if one of
            the two is not valid, if they share fewer than six such rounds, or if the run's control
            is above the noise floor.
    """

    boundary: Boundary
    cache: Cache = "hot"
    rounds_ns: tuple[tuple[int, ...], ...]
    disturbed: tuple[int, ...] = ()
    stats: Stats
    speedup: tuple[float, float, float] | None = None

    @property
    def quiet_ns(self) -> dict[int, tuple[int, ...]]:
        """The samples of the undisturbed rounds, by the index of the round."""
        return quiet(self.rounds_ns, self.disturbed)


def timing_of(
    boundary: Boundary,
    rounds: Sequence[Sequence[int]],
    batch: int,
    disturbed: Collection[int] = (),
    streams: int = 1,
    cache: Cache = "hot",
) -> Timing:
    """The times of a case of ``batch`` images at one boundary, nanoseconds by round.

    Args:
        boundary: what they enclose.
        rounds: all rounds.
        batch: images in one run.
        disturbed: indices of the rounds to leave out of the statistics.
        streams: requests in flight.
        cache: as in `Timing`.
    """
    left = list(quiet(rounds, disturbed).values()) or rounds
    return Timing(
        boundary=boundary,
        cache=cache,
        rounds_ns=tuple(map(tuple, rounds)),
        disturbed=tuple(sorted(disturbed)),
        stats=derive(left, batch, streams),
    )


def quiet(
    rounds: Sequence[Sequence[int]], disturbed: Collection[int]
) -> dict[int, tuple[int, ...]]:
    """The rounds with samples that are not ``disturbed``, by index."""
    return {
        index: tuple(burst)
        for index, burst in enumerate(rounds)
        if burst and index not in disturbed
    }


def precision_of(rounds: Iterable[Sequence[int]]) -> float | None:
    """Half the width of the 95 % interval of the rounds' medians over the estimate; None below six
    rounds.
    """
    interval = _interval(rounds)
    return None if interval is None else (interval.high - interval.low) / 2 / interval.estimate


def ratio_interval(
    times: Mapping[int, Sequence[int]], others: Mapping[int, Sequence[int]]
) -> Interval | None:
    """``times`` over ``others``, estimated from the rounds that both have: the medians of a round
    stand for it, so drift from round to round cancels. None below six such rounds.
    """
    return log_interval(
        [
            (statistics.median(times[index]) or 1) / (statistics.median(others[index]) or 1)
            for index in times
            if index in others
        ]
    )


def _interval(rounds: Iterable[Sequence[int]]) -> Interval | None:
    return log_interval([statistics.median(burst) or 1 for burst in rounds])


def derive(rounds: Sequence[Sequence[int]], batch: int, streams: int = 1) -> Stats:
    """Statistics of the samples of all ``rounds`` (nanoseconds) of a case of ``batch`` images, with
    ``streams`` requests in flight.
    """
    samples = [sample for burst in rounds for sample in burst]
    median, mean = statistics.median(samples), statistics.fmean(samples)
    interval = _interval(burst for burst in rounds if burst)
    return Stats(
        count=len(samples),
        median_ns=median,
        # The interval is of the rounds' center, which skewed samples may put beside their median.
        median_low_ns=None if interval is None else min(interval.low, median),
        median_high_ns=None if interval is None else max(interval.high, median),
        mean_ns=mean,
        min_ns=min(samples),
        max_ns=max(samples),
        p90_ns=percentile_bound(samples, 90),
        p99_ns=percentile_bound(samples, 99),
        cv=statistics.pstdev(samples) / mean if mean else 0.0,
        round_spread=round_spread(rounds),
        images_per_s=batch * streams / (median / 1e9) if median else math.inf,
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
    drop = droppable(len(samples), percent)
    return None if drop is None else sorted(samples)[len(samples) - 1 - drop]


@lru_cache(maxsize=1024)
def droppable(count: int, percent: int) -> int | None:
    """How many of ``count`` samples may lie above a value that with 99 % confidence is at or above
    the true percentile; None if there are too few samples.
    """
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
