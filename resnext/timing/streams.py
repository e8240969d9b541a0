"""Times of requests of which several are in flight at once, by the one clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError, Event

from . import clock


def time_streams(calls: Sequence[Callable[[], object]], iterations: int) -> list[int]:
    """Nanoseconds of requests in as many streams as there are ``calls``: each is called back to
    back on its own thread.

    All streams start together, and run until the first has made ``iterations`` calls. What ends
    later is dropped, because the machine then belonged to fewer streams.

    Args:
        calls: each returns only when its work is done.
        iterations: timed calls of the fastest stream.

    Returns:
        Times of all streams, in the order in which the requests ended.

    Raises:
        Exception: whatever a call raises; the other streams end then, too.
    """
    start, stop = Barrier(len(calls)), Event()

    def stream(call: Callable[[], object]) -> list[int]:
        try:
            start.wait()
            stamps = [clock.now_ns()]
            while not stop.is_set():
                call()
                stamps.append(clock.now_ns())
                if len(stamps) > iterations:
                    stop.set()
            return stamps
        except BaseException:
            stop.set()
            start.abort()  # or the others would wait for this one
            raise

    with clock.no_collection(), ThreadPoolExecutor(len(calls), "stream") as pool:
        running = [pool.submit(stream, call) for call in calls]
        try:
            errors = [one.exception() for one in running]
        finally:
            stop.set()
    # A stream that waited for a failed one has no news.
    for error in sorted(filter(None, errors), key=lambda one: isinstance(one, BrokenBarrierError)):
        raise error
    streams = [one.result() for one in running]
    ended = min(stamps[iterations] for stamps in streams if len(stamps) > iterations)
    return [
        after - before
        for after, before in sorted(
            (after, before)
            for stamps in streams
            for before, after in itertools.pairwise(stamps)
            if after <= ended
        )
    ]
