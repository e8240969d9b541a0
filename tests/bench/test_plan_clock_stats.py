"""The parts that make a number: order, clock, statistics."""

from __future__ import annotations

import gc
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from resnext.errors import UsageError
from resnext.timing import clock
from resnext.timing.interleave import in_turn, shuffled, there_and_back, turns
from resnext.timing.paired import ratio, ratio_by_round
from resnext_bench.measure import iterations
from resnext_bench.plan import Case, Plan
from resnext_bench.stats import LEAST_SAMPLES, derive, percentile_bound, round_spread

CASES = tuple(Case(name, batch) for name in ("a", "b", "c") for batch in (1, 8))


def test_every_round_visits_every_cell_once_in_an_order_of_its_own() -> None:
    plan = Plan(CASES, rounds=8)
    orders = [shuffled(plan.seed)(plan.cases, index) for index in range(8)]
    assert all(sorted(map(str, order)) == sorted(map(str, CASES)) for order in orders)
    assert len(set(orders)) > 1
    assert orders == [shuffled(plan.seed)(plan.cases, index) for index in range(8)]


def test_visits_share_the_duration_and_never_fall_under_the_least_samples() -> None:
    plan = Plan(CASES, duration_s=2.0, rounds=4, min_samples=11)
    assert iterations(plan, 1e6) == 500
    assert iterations(plan, 10e9) == 3  # 4 rounds of 3 make 12
    assert iterations(Plan(CASES, rounds=1, min_samples=662), 10e9) == 662


@pytest.mark.parametrize(
    "change", [{"duration_s": 0}, {"rounds": 0}, {"warmup_s": -1}, {"min_samples": 0}]
)
def test_a_senseless_plan_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Plan(CASES, **change)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(UsageError, match="nothing to measure"):
        Plan(())


def test_host_clock_sees_the_time_that_a_call_takes() -> None:
    samples = clock.time_host(lambda: time.sleep(0.01), 5)
    assert len(samples) == 5
    assert all(9.5e6 < sample < 200e6 for sample in samples)


def test_no_garbage_collection_inside_a_timed_stretch_and_it_is_on_again_after() -> None:
    seen = []
    clock.time_host(lambda: seen.append(gc.isenabled()), 2)
    assert seen == [False, False]
    assert gc.isenabled()


def test_the_clock_is_put_right_when_the_call_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        clock.time_host(lambda: 1 / 0, 1)
    assert gc.isenabled()


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


def test_ratio_pairs_rounds_so_that_drift_cancels() -> None:
    base = [[100], [200], [400]]
    other = [[50], [100], [200]]
    assert ratio_by_round(base, other) == (2.0, 2.0, 2.0)


def test_a_round_without_a_sample_is_left_out_and_a_time_of_zero_is_no_error() -> None:
    assert ratio_by_round([[100], []], [[50], [1]]) == (2.0, 2.0, 2.0)
    assert ratio_by_round([[100]], [[0]]) == (100, 100, 100)
    assert ratio([0.5, 3.0, 1.0], [1.0, 1.0, 1.0]) == (1.0, 0.5, 3.0)
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])


def test_every_order_visits_every_candidate_in_every_round() -> None:
    for order, visits in ((in_turn, 1), (shuffled(3), 1), (there_and_back, 2)):
        taken = list(turns("abc", 4, order))
        for index in range(4):
            assert sorted(name for at, name in taken if at == index) == sorted("abc" * visits)
    assert [name for _, name in turns("abc", 1, there_and_back)] == list("abccba")
    assert list(turns("abc", 2)) == [(0, c) for c in "abc"] + [(1, c) for c in "abc"]


def test_a_visit_begins_with_an_untimed_call_unless_told_otherwise() -> None:
    calls: list[int] = []
    assert len(clock.time_visit(lambda: calls.append(1), 3)) == 3
    assert len(calls) == 4
    assert len(clock.time_visit(lambda: calls.append(1), 1, warm=False)) == 1
    assert len(calls) == 5


def test_iterations_fill_the_time_within_their_limits() -> None:
    assert clock.iterations_for(1e9, 1e6) == 1000
    assert clock.iterations_for(1e9, 1e12) == 1
    assert clock.iterations_for(1e9, 1e12, least=3) == 3
    assert clock.iterations_for(1e9, 0, most=50) == 50


def test_only_the_clock_reads_the_time_of_what_is_compared() -> None:
    """Tuning, the trial of a live model and the benchmark time nothing by themselves."""
    root = Path(__file__).parents[2]
    files = [
        *(root / "export" / "resnext_export" / "tuning").glob("*.py"),
        root / "resnext" / "runtimes" / "pytorch" / "session.py",
        *(root / "benchmarks" / "resnext_bench").rglob("*.py"),
    ]
    assert len(files) > 10
    assert [str(path) for path in files if "perf_counter" in path.read_text()] == []
