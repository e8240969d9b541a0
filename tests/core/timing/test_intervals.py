"""The signed-rank interval, against published values and against scipy's exact test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from resnext.timing.intervals import Interval, log_interval, signed_rank


def test_the_estimate_is_the_median_of_the_pair_means() -> None:
    assert signed_rank([1, 2, 3, 4, 5, 6]) == Interval(3.5, 1, 6)  # six values: all of the range
    interval = signed_rank([0.0] * 7 + [100.0])
    assert interval is not None
    assert interval.estimate == 0.0  # one of eight does not move it


@pytest.mark.parametrize("count", range(6))
def test_below_six_values_there_is_no_interval_of_95_percent(count: int) -> None:
    assert signed_rank(list(map(float, range(count)))) is None
    assert signed_rank([1.0, 2.0, 3.0, 4.0, 5.0], confidence=0.9) is not None


@pytest.mark.parametrize("count", [6, 8, 9, 12, 20, 30])
def test_the_interval_holds_what_the_exact_test_does_not_reject(count: int) -> None:
    random = np.random.default_rng(count)
    for _ in range(20):
        values = random.normal(0.3, 1, count)
        interval = signed_rank(values.tolist())
        assert interval is not None
        for center in (interval.low, interval.high):
            inside, outside = (
                center + shift * (1 if center == interval.low else -1) for shift in (1e-9, -1e-9)
            )
            assert wilcoxon(values - inside, method="exact").pvalue > 0.05
            assert wilcoxon(values - outside, method="exact").pvalue <= 0.05


def test_ratios_are_intervals_of_their_logarithms() -> None:
    interval = log_interval([2.0, 2.0, 2.0, 8.0, 8.0, 8.0])
    assert interval == pytest.approx((4.0, 2.0, 8.0))
    assert log_interval([1.0]) is None
