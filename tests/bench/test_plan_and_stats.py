"""Plan and statistics: what is fixed before the first time is taken, and derived after the last."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from resnext.errors import UsageError
from resnext.timing.interleave import shuffled
from resnext_bench.plan import Case, Plan
from resnext_bench.stats import LEAST_SAMPLES, derive, percentile_bound, round_spread

CASES = tuple(Case(name, batch) for name in ("a", "b", "c") for batch in (1, 8))


def test_every_round_visits_every_case_once_in_a_new_order() -> None:
    plan = Plan(CASES, rounds=8)
    orders = [shuffled(plan.seed)(plan.cases, index) for index in range(8)]
    assert all(sorted(map(str, order)) == sorted(map(str, CASES)) for order in orders)
    assert len(set(orders)) > 1
    assert orders == [shuffled(plan.seed)(plan.cases, index) for index in range(8)]


def test_visits_share_the_duration_and_never_fall_under_the_least_samples() -> None:
    plan = Plan(CASES, duration_s=2.0, rounds=4, min_samples=11)
    assert plan.iterations(1e6) == 500
    assert plan.iterations(10e9) == 3  # 4 rounds of 3 make 12
    assert Plan(CASES, rounds=1, min_samples=662).iterations(10e9) == 662


@pytest.mark.parametrize(
    "change", [{"duration_s": 0}, {"rounds": 0}, {"warmup_s": -1}, {"min_samples": 0}]
)
def test_a_senseless_plan_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Plan(CASES, **change)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(UsageError, match="nothing to measure"):
        Plan(())


def test_statistics_are_those_of_the_raw_samples() -> None:
    rounds = [[100, 300], [200, 500], [400, 600]]
    stats = derive(rounds, batch=8)
    assert (stats.count, stats.min_ns, stats.max_ns) == (6, 100, 600)
    assert stats.median_ns == 350
    assert stats.mean_ns == 350
    assert stats.images_per_s == pytest.approx(8 / 350e-9)
    assert stats.cv == pytest.approx(statistics.pstdev([100, 200, 300, 400, 500, 600]) / 350)


@pytest.mark.parametrize(("percent", "least"), LEAST_SAMPLES.items())
def test_a_percentile_needs_its_least_count(percent: int, least: int) -> None:
    assert percentile_bound(list(range(least - 1)), percent) is None
    assert percentile_bound(list(range(least)), percent) == least - 1  # the slowest


def test_table_of_least_counts_is_mlperfs() -> None:
    assert LEAST_SAMPLES == {50: 11, 90: 64, 99: 662}


def test_percentile_bound_drops_what_the_binomial_allows() -> None:
    from scipy.stats import binom

    count = 1000
    bound = percentile_bound(list(range(count)), 90)
    assert bound is not None
    dropped = count - 1 - bound
    assert binom.cdf(dropped + 1, count, 0.1) <= 0.01 < binom.cdf(dropped + 2, count, 0.1)


def test_percentile_bound_is_seldom_below_the_true_percentile() -> None:
    rng = np.random.default_rng(0)
    true_p90 = 0.9
    misses = 0
    for _ in range(1000):
        bound = percentile_bound((rng.random(200) * 1e9).astype(int).tolist(), 90)
        assert bound is not None
        misses += bound < true_p90 * 1e9
    assert misses <= 25  # 1 % of 1000 expected at most


def test_round_spread_shows_drift_between_rounds_and_not_noise_within() -> None:
    noisy = [[90, 100, 110]] * 6
    drifting = [[100 + 30 * index] * 3 for index in range(6)]
    assert round_spread(noisy) == 0
    assert round_spread(drifting) > 0.3
    assert round_spread(drifting[:2]) == 0
