"""Rows with cold caches: marked, and never compared with hot ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resnext.errors import BadInput, UsageError
from resnext.testing import FakeSession
from resnext.timing import cold
from resnext.weights.spec import load_weights
from resnext_bench import benchmark, compare_runs
from resnext_bench.measure import Samples, Subject, visit, with_cache
from resnext_bench.plan import Case, Plan
from resnext_bench.record import Row
from resnext_bench.report import legend, text
from resnext_bench.result import Run
from resnext_bench.rows import timings_of, with_speedups
from resnext_bench.stats import timing_of


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts flushes, which are small here."""
    count = [0]

    class Counted(cold.CpuFlush):
        def __init__(self) -> None:
            super().__init__(64 << 10)
            count[0] = 0

        def __call__(self) -> None:
            count[0] += 1
            super().__call__()

    monkeypatch.setattr(cold, "CpuFlush", Counted)
    return count


def test_caches_are_emptied_before_each_timed_run(flushes: list[int]) -> None:
    session, inputs = FakeSession(), {"input": np.zeros((1, 1), np.float32)}
    subject = Subject(session, inputs, session.bind(inputs))
    samples = Samples()
    visit(with_cache(subject, "hot"), samples, 5)
    assert (flushes, samples.cache) == ([0], "hot")
    cold_subject = with_cache(subject, "cold")
    visit(cold_subject, samples, 5)
    assert (flushes, samples.cache) == ([5], "cold")
    assert cold_subject.flush_ns > subject.flush_ns == 0
    assert {timing.cache for timing in timings_of(samples, 1)} == {"cold"}


def test_a_cold_run_says_so_and_earlier_files_are_hot(flushes: list[int]) -> None:
    options: dict[str, Any] = {"duration": 0.02, "rounds": 2, "warmup": 0, "samples": 11}
    digits = load_weights("digits")
    run = benchmark("torch", weights=digits, cache="cold", precision_target=None, **options)
    (row,) = run.rows
    assert row.timings[0].cache == "cold"
    runs = sum(map(len, row.timings[0].rounds_ns))
    assert runs >= 11
    assert flushes[0] == runs
    assert " host cold " in text(run)
    assert "never compared with hot times" in legend(run)
    stored = run.model_dump()
    del stored["rows"][0]["timings"][0]["cache"]
    earlier = Run.model_validate(stored)
    assert earlier.rows[0].timings[0].cache == "hot"
    assert "cold" not in text(earlier) + legend(earlier)


def row(cache: cold.Cache, took_ns: int) -> Row:
    timing = timing_of("host", [[took_ns] * 4] * 8, 1, cache=cache)
    return Row(backend="torch", batch=1, status="valid", timings=(timing,))


def test_no_speedup_of_a_hot_row_over_a_cold_one() -> None:
    rows = with_speedups([row("cold", 2000), row("hot", 1000), row("hot", 500)])
    assert [each.timings[0].speedup and each.timings[0].speedup[0] for each in rows] == [
        pytest.approx(1.0),
        pytest.approx(1.0),
        pytest.approx(2.0),
    ]


def test_cold_caches_are_for_one_request_at_a_time() -> None:
    with pytest.raises(UsageError, match="one request at a time; use `streams` 1"):
        Plan((Case("ort-cpu", 1, streams=2),), cache="cold")


def test_runs_of_hot_and_of_cold_caches_have_no_row_in_common() -> None:
    digits = load_weights("digits")
    made = benchmark(
        "torch", weights=digits, duration=0.01, rounds=1, warmup=0, precision_target=None
    )
    hot, cold_run = (
        made.model_copy(update={"rows": (row(cache, 1000),)}) for cache in ("hot", "cold")
    )
    with pytest.raises(BadInput, match="the runs have no row in common"):
        compare_runs(hot, cold_run)
    both = cold_run.model_copy(update={"rows": (row("hot", 1000), row("cold", 1000))})
    assert compare_runs(hot, both).skipped == ("torch batch 1 host cold: missing in the base run",)
