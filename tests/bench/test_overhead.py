"""What the harness adds to a timed run: little, measured in every run, and shown."""

from __future__ import annotations

import time

import pytest

from resnext.testing import FakeSession
from resnext.timing import clock
from resnext.weights.spec import load_weights
from resnext_bench import benchmark
from resnext_bench.overhead import harness_ns
from resnext_bench.report import markdown, text
from resnext_bench.result import Run


def test_the_harness_adds_less_than_two_microseconds_to_a_run() -> None:
    # the least of three: a busy test machine can only add
    assert 0 < min(harness_ns() for _ in range(3)) < 2000


def test_a_slow_clock_is_the_harness_s_and_a_slow_session_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow() -> int:
        ends = time.perf_counter_ns() + 50_000
        while (now := time.perf_counter_ns()) < ends:
            pass
        return now

    class Slow(FakeSession):
        def run(self, inputs: object) -> dict[str, object]:  # type: ignore[override]  # wider
            slow()
            return {"logits": inputs}

    assert min(harness_ns(Slow(), 20) for _ in range(3)) < 20_000
    monkeypatch.setattr(clock, "now_ns", slow)
    assert harness_ns(iterations=20) > 40_000


def test_it_is_recorded_and_shown_and_files_without_it_are_read() -> None:
    run = benchmark(
        "torch", weights=load_weights("digits"), duration=0.01, rounds=1, warmup=0, samples=1
    )
    assert run.harness_ns is not None
    line = f"harness: {run.harness_ns / 1e3:.2f} us an iteration"
    assert line in text(run)
    assert f"\n- {line}\n" in markdown(run)
    stored = run.model_dump()
    del stored["harness_ns"]
    earlier = Run.model_validate(stored)
    assert "harness" not in markdown(earlier) + text(earlier)
