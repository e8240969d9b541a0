"""Intervals and p-values against other implementations, and against each other."""

from __future__ import annotations

import itertools
import math
import statistics
import time

import numpy as np
import pytest
from scipy import stats

from resnext.timing.intervals import (
    drifted,
    hodges_lehmann,
    log_interval,
    rank_sum,
    rank_sum_p,
    signed_rank,
    signed_rank_above_p,
    signed_rank_p,
    student_t,
    student_t_p,
)


def values(seed: int, count: int, shift: float = 0.0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(shift, 1, count)]


@pytest.mark.parametrize("count", [6, 7, 12, 20])
def test_the_signed_rank_p_value_is_scipys(count: int) -> None:
    for seed in range(5):
        sample = values(seed, count, 0.7)
        expected = stats.wilcoxon(sample, method="exact").pvalue
        assert signed_rank_p(sample, 0.0) == pytest.approx(min(1.0, expected))


@pytest.mark.parametrize(("count", "other"), [(4, 4), (5, 9), (12, 12)])
def test_the_rank_sum_p_value_is_scipys(count: int, other: int) -> None:
    for seed in range(5):
        first, second = values(seed, count, 0.8), values(seed + 100, other)
        expected = stats.mannwhitneyu(first, second, method="exact").pvalue
        assert rank_sum_p(first, second, 0.0) == pytest.approx(min(1.0, expected))


def test_the_t_interval_and_its_p_value_are_scipys() -> None:
    sample = values(3, 5, 1.0)
    interval = student_t(sample)
    assert interval is not None
    expected = stats.ttest_1samp(sample, 0.0)
    assert tuple(interval[1:]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert student_t_p(sample, 0.0) == pytest.approx(expected.pvalue)
    assert student_t([1.0]) is None
    assert [student_t_p([1.0, 1.0], bound) for bound in (0.5, 1.0)] == [0.0, 1.0]


def test_interval_and_p_value_agree() -> None:
    beyond = 0
    for seed in range(200):
        sample, other = values(seed, 9, 0.9), values(seed + 1000, 8)
        for interval, p_value in (
            (signed_rank(sample), signed_rank_p(sample, 0.2)),
            (rank_sum(sample, other), rank_sum_p(sample, other, 0.2)),
        ):
            assert interval is not None
            assert (interval.low > 0.2 or interval.high < -0.2) == (p_value <= 0.05)
            beyond += p_value <= 0.05
    assert 50 < beyond < 350


def test_the_rank_sum_interval_is_that_of_the_published_quantiles() -> None:
    # Hollander and Wolfe, table A.6: m = n = 5 has P(W >= 36) = .028, P(W >= 37) = .016
    first, second = [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.1, 0.2, 0.3, 0.4]
    differences = sorted(a - b for a, b in itertools.product(first, second))
    interval = rank_sum(first, second)
    assert interval is not None
    assert interval.estimate == statistics.median(differences)
    # P(U <= 2) = .0159 and P(U <= 3) = .0278: the third smallest and the third largest
    assert interval[1:] == (differences[2], differences[-3])


def test_too_few_values_have_no_interval() -> None:
    assert signed_rank(values(0, 5)) is None
    assert signed_rank(values(0, 6)) is not None
    assert rank_sum(values(0, 3), values(1, 4)) is None
    assert rank_sum(values(0, 4), values(1, 4)) is not None
    assert rank_sum([], []) is None
    assert signed_rank([]) is None


def test_a_log_interval_is_in_the_unit_of_its_values() -> None:
    interval = log_interval([math.e**exponent for exponent in range(7)])
    assert interval is not None
    assert interval == pytest.approx((math.e**3, math.e, math.e**5))


def test_drift_is_seen_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    chance = [drifted(rng.normal(size=12).tolist()) for _ in range(2000)]
    walks = [drifted(rng.normal(size=12).cumsum().tolist()) for _ in range(2000)]
    assert 0.03 < np.mean(chance) < 0.065
    assert np.mean(walks) > 0.75
    assert not drifted([1.0] * 12)
    assert not drifted([1.0, 2.0, 3.0])
    assert drifted([float(index) for index in range(12)])


def test_the_normal_distribution_takes_over_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, other = values(1, 50, 0.3), values(2, 50)

    def all_results() -> list[float]:
        first, second = signed_rank(sample), rank_sum(sample, other)
        assert first is not None
        assert second is not None
        p_values = signed_rank_p(sample, 0.1), rank_sum_p(sample, other, 0.1)
        return [*first, *second, *p_values]

    exact = all_results()
    monkeypatch.setattr("resnext.timing.intervals.EXACT", 49)
    assert all_results() == pytest.approx(exact, abs=0.01)
    assert all_results() != exact


def test_very_many_values_take_no_time_and_lose_little() -> None:
    sample = values(4, 20_000, 1.0)
    began = time.process_time()
    interval = signed_rank(sample)
    assert time.process_time() - began < 1
    assert interval is not None
    assert interval.low < 1.0 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / math.sqrt(20_000), rel=0.1)
    shift = rank_sum(sample, values(5, 20_000))
    assert shift is not None
    assert shift.high - shift.low == pytest.approx(2 * 1.96 / math.sqrt(10_000), rel=0.1)


@pytest.mark.parametrize("count", [6, 7, 12, 20])
def test_the_one_sided_p_value_and_the_estimate_are_scipys(count: int) -> None:
    for seed in range(5):
        sample = values(seed, count, 0.7)
        shifted = np.array(sample) - 0.3
        expected = stats.wilcoxon(shifted, alternative="greater", method="exact").pvalue
        assert signed_rank_above_p(sample, 0.3) == pytest.approx(expected)
        interval = signed_rank(sample)
        assert interval is not None
        assert hodges_lehmann(sample) == interval.estimate
    assert hodges_lehmann([1.0, 4.0]) == 2.5
