"""The one clock, turns and paired ratios: the core of every comparison of times."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

from resnext.timing import clock
from resnext.timing.interleave import in_turn, shuffled, there_and_back, turns
from resnext.timing.paired import ratio, ratio_by_round


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
        visits_made = list(turns("abc", 4, order))
        for index in range(4):
            assert sorted(name for at, name in visits_made if at == index) == sorted("abc" * visits)
    assert [name for _, name in turns("abc", 1, there_and_back)] == list("abccba")
    assert list(turns("abc", 2)) == [(0, c) for c in "abc"] + [(1, c) for c in "abc"]


def test_a_visit_begins_with_untimed_calls_until_it_has_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0

    def call() -> None:
        nonlocal now
        now += 20_000_000

    monkeypatch.setattr(clock, "now_ns", lambda: now)
    assert len(clock.time_visit(call, 2)) == 2
    assert now == (3 + 2) * 20_000_000  # 60 ms are the first that are no less than 50
    monkeypatch.setattr(clock, "SETTLE_S", 0.0)
    clock.time_visit(call, 1)
    assert now == (5 + 1 + 1) * 20_000_000  # one call at the least


def test_a_visit_begins_with_an_untimed_call_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "SETTLE_S", 0.0)
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
    root = Path(__file__).parents[3]
    files = [
        *(root / "export" / "resnext_export" / "tuning").glob("*.py"),
        root / "resnext" / "runtimes" / "pytorch" / "session.py",
        *(root / "benchmarks" / "resnext_bench").rglob("*.py"),
    ]
    assert len(files) > 10
    # A peer that our times are checked against must have its own clock.
    peer = root / "benchmarks" / "resnext_bench" / "crosscheck" / "plain_ort.py"
    assert [path for path in files if "perf_counter" in path.read_text()] == [peer]
