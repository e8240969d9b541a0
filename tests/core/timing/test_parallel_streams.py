"""Requests with several in flight: what is timed, what is dropped, and what it says about the
throughput.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest

from resnext.errors import SessionFailed
from resnext.timing.streams import time_streams


def test_streams_run_at_the_same_time_each_on_its_own_thread() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks unless three are in flight
    threads: list[set[int]] = [set(), set(), set()]

    def call(stream: int) -> Callable[[], None]:
        def run() -> None:
            together.wait()
            threads[stream].add(threading.get_ident())
            time.sleep(0.001)

        return run

    times = time_streams([call(stream) for stream in range(3)], 1)
    assert len(times) >= 1
    assert [len(each) for each in threads] == [1, 1, 1]
    assert len(set.union(*threads)) == 3


def test_nothing_is_timed_after_the_first_stream_has_ended() -> None:
    """The other stream has the machine to itself then, and its last call ends early."""
    alone, calls = threading.Event(), 0

    def first() -> None:
        nonlocal calls
        time.sleep(0.002)
        calls += 1
        if calls == 10:
            alone.set()

    def other() -> None:
        alone.wait(10)
        time.sleep(0.001)

    times = time_streams([first, other], 10)
    assert len(times) == 10


@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_stream_that_fails_ends_the_others(fails_at: int) -> None:
    count = 0

    def breaks() -> None:
        nonlocal count
        if count == fails_at:
            raise SessionFailed("planted")
        count += 1

    before = threading.active_count()
    with pytest.raises(SessionFailed, match="planted"):
        time_streams([lambda: time.sleep(0.001), breaks], 1_000_000)
    assert threading.active_count() == before


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_streams_over_the_median_is_the_throughput(streams: int) -> None:
    """Little's law, against the wall clock; a busy machine may disturb some tries."""
    differences = []
    for _ in range(10):
        ends: list[int] = []

        def call(ends: list[int] = ends) -> None:
            time.sleep(0.01)
            ends.append(time.perf_counter_ns())

        times = time_streams([call] * streams, 20)
        wall_ns = max(ends) - sorted(ends)[streams - 1]  # from the end of each stream's first
        per_s = streams / (statistics.median(times) / 1e9)
        counted = (len(ends) - streams) / (wall_ns / 1e9)
        differences.append(abs(per_s / counted - 1))
        if differences[-1] <= 0.03:
            return
    pytest.fail(f"the throughputs differ by {differences}")
