"""The one clock: every reported time, and every trial that chooses between options, uses it.

Host times are differences of ``time.perf_counter_ns`` around a call that has finished when it
returns. Device times are CUDA events recorded on the session's own stream, around the work alone.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

now_ns = time.perf_counter_ns

#: Untimed seconds at the start of a visit.
SETTLE_S = 0.05


class Queue(Protocol):
    """A `Bound`, or anything else that queues work on a CUDA stream; timed by `time_device`."""

    @property
    def cuda_stream(self) -> int | None:
        """Handle of the stream."""

    def enqueue(self) -> object:
        """Queue one run."""

    def synchronize(self) -> None:
        """Wait for the stream."""


def time_host(
    call: Callable[[], object], iterations: int, before: Callable[[], object] | None = None
) -> list[int]:
    """Nanoseconds of each of ``iterations`` calls, back to back. ``call`` must not return before
    its work is done.

    Args:
        call: to be timed.
        iterations: number of calls.
        before: called before each of them, untimed; the calls are then not back to back.
    """
    clock = now_ns
    if before is not None:
        times = []
        with no_collection():
            for _ in range(iterations):
                before()
                start = clock()
                call()
                times.append(clock() - start)
        return times
    stamps = [0] * (iterations + 1)
    with no_collection():
        stamps[0] = clock()
        for index in range(1, iterations + 1):
            call()
            stamps[index] = clock()
    return [after - before for before, after in itertools.pairwise(stamps)]


def time_visit(call: Callable[[], object], iterations: int, *, warm: bool = True) -> list[int]:
    """`time_host` for one visit, in turn with other candidates.

    Args:
        call: returns only when its work is done.
        iterations: number of timed calls.
        warm: call first, untimed (`settle`): caches and thread pools are still set for the previous
            candidate.
    """
    if warm:
        settle(call)
    return time_host(call, iterations)


def settle(call: Callable[[], object]) -> None:
    """Call once, and again until `SETTLE_S` has passed: threads of whatever ran before still look
    for work for some 30 ms (ONNX Runtime, OpenMP), and take the processors.
    """
    ends = now_ns() + SETTLE_S * 1e9
    call()
    while now_ns() < ends:
        call()


def iterations_for(
    duration_ns: float, estimate_ns: float, *, least: int = 1, most: int | None = None
) -> int:
    """Number of runs of about ``estimate_ns`` that fill ``duration_ns``, from ``least`` to
    ``most``.
    """
    count = max(least, int(duration_ns / max(estimate_ns, 1)))
    return count if most is None else min(count, most)


def time_enqueue(queue: Queue, iterations: int) -> list[int]:
    """Host nanoseconds to queue each of ``iterations`` runs, every one on an idle stream: a full
    queue would make the host wait for the device.
    """
    times = []
    with no_collection():
        for _ in range(iterations):
            queue.synchronize()
            start = now_ns()
            queue.enqueue()
            times.append(now_ns() - start)
        queue.synchronize()
    return times


def time_device(
    queue: Queue, iterations: int, before: Callable[[], object] | None = None
) -> tuple[list[int], int]:
    """Device nanoseconds of each of ``iterations`` runs, between CUDA events on the queue's stream,
    which must exist.

    Args:
        queue: to be timed.
        iterations: number of runs.
        before: queues untimed work on the stream before each of them.

    Returns:
        The times, and the host's time around all of them, waiting included and untimed work
        excluded. If the queue never
        runs dry, the first add up to about the second; if the events are on another stream than
        the work, or there is no work, they do not.
    """
    import torch

    handle = queue.cuda_stream
    assert handle is not None, "time_device needs a CUDA stream"
    stream = torch.cuda.ExternalStream(handle)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    events: Any = torch.cuda.Event  # untyped in torch
    pairs = [(events(enable_timing=True), events(enable_timing=True)) for _ in range(iterations)]
    untimed = [events(enable_timing=True) for _ in pairs] if before is not None else []
    queue.synchronize()
    with no_collection():
        began = now_ns()
        # untimed: it fills the queue, so that no timed run starts on an idle stream
        queue.enqueue()
        for index, (start, end) in enumerate(pairs):
            if before is not None:
                untimed[index].record(stream)
                before()
            start.record(stream)
            queue.enqueue()
            end.record(stream)
        queue.synchronize()
        wall_ns = now_ns() - began
    times = [round(start.elapsed_time(end) * 1e6) for start, end in pairs]
    for first, (start, _) in zip(untimed, pairs, strict=False):
        wall_ns -= round(first.elapsed_time(start) * 1e6)
    return times, wall_ns


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the timed stretch."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
