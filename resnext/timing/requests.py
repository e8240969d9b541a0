"""Times of requests from their arrival to their answer, by the one clock.

In an open loop the arrivals are planned before the first one and do not wait for answers, as those
of independent users. A time counts from the planned arrival, so that what a stall does to the
requests behind it is in the times (no coordinated omission). In a closed loop, each of a number of
clients sends its next request when it has its answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX, Event, Thread
from typing import NamedTuple

from resnext.errors import NeverReturned

from . import clock

#: The thread of arrivals sleeps until this long before an arrival, then polls the clock.
_POLL_NS = 100_000
#: Share of dropped requests after which the rest is not released.
_MOST_DROPPED = 0.02
#: Seconds between two questions whether to stop.
_ASK_S = 0.1

Call = Callable[[], object]


class Answer(NamedTuple):
    """One answered request, nanoseconds of the clock.

    Attributes:
        arrived: planned arrival, or in a closed loop the client's previous answer.
        started: when a worker took it.
        done: when its work was done.
    """

    arrived: int
    started: int
    done: int


@dataclass
class Answers:
    """What became of the requests.

    Attributes:
        answers: in the order of arrival.
        workers: threads that answer.
        late_ns: by how much each request of an open loop was released late.
        dropped: requests that met a full queue.
        waiting: requests in the queue when the last one arrived.
        began: start of the load.
        ended: the last arrival; in a closed loop, when the time was up.
        gave_up: whether requests were held back because too many had been dropped.
        stopped: whether it was stopped before its end.
    """

    workers: int
    answers: list[Answer] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)
    dropped: int = 0
    waiting: int = 0
    began: int = 0
    ended: int = 0
    gave_up: bool = False
    stopped: bool = False

    @property
    def latencies_ns(self) -> list[int]:
        """From arrival to answer, in the order of arrival."""
        return [one.done - one.arrived for one in self.answers]

    @property
    def busy(self) -> float:
        """Share of the workers' time, until the last arrival, in which they worked."""
        span = (self.ended - self.began) * self.workers
        worked = sum(
            max(0, min(one.done, self.ended) - max(one.started, self.began)) for one in self.answers
        )
        return worked / span if span > 0 else 0.0

    @property
    def per_s(self) -> float:
        """Answers a second, from the start of the load to the last arrival."""
        span = self.ended - self.began
        return sum(one.done <= self.ended for one in self.answers) / (span / 1e9 or 1.0)

    @property
    def capacity_per_s(self) -> float:
        """Answers a second of workers that never wait for a request."""
        worked = sum(one.done - one.started for one in self.answers)
        return self.workers * len(self.answers) / (worked / 1e9 or 1.0)


def open_loop(
    calls: Sequence[Call],
    arrivals_ns: Sequence[int],
    room: int,
    stop: Callable[[], bool] = lambda: False,
    most_over: tuple[int, int] | None = None,
    patience_s: float = math.inf,
) -> Answers:
    """Release requests at planned times, whether earlier ones are answered or not.

    Args:
        calls: one for each worker thread; each returns only when its work is done.
        arrivals_ns: planned arrivals, from the start of the load, in order.
        room: length of the queue; a request that finds it full is dropped.
        stop: asked before each arrival and every 0.1 s; no more are released once it is true.
        most_over: a latency in nanoseconds, and the number of requests beyond it after which no
            more are released; None releases all.
        patience_s: seconds that a call may take.

    Raises:
        NeverReturned: a call took longer.
        Exception: whatever a call raises; the load ends then.
    """
    answers, failed, clear = Answers(len(calls)), Event(), Event()
    over = count(1)
    requests: SimpleQueue[int | None] = SimpleQueue()
    running: dict[int, int] = {}

    def stopped() -> bool:
        answers.stopped = answers.stopped or stop()
        return answers.stopped

    def release() -> None:
        most = max(1, int(_MOST_DROPPED * len(arrivals_ns)))
        try:
            for due in arrivals_ns:
                at = answers.began + due
                if not _wait_until(at, failed, stopped) or clear.is_set() or stopped():
                    break
                answers.late_ns.append(clock.now_ns() - at)
                if requests.qsize() < room:
                    requests.put(at)
                    continue
                answers.dropped += 1
                if answers.dropped > most:
                    answers.gave_up = True
                    break
            answers.ended = clock.now_ns()
            answers.waiting = requests.qsize()
            if answers.gave_up or failed.is_set() or clear.is_set():
                waiting = _cleared(requests)
                if answers.gave_up:  # each worker answers one more: how long does that take?
                    for arrived in waiting[: len(calls)]:
                        requests.put(arrived)
        finally:
            for _ in calls:
                requests.put(None)

    def work(index: int, call: Call) -> None:
        try:
            while (arrived := requests.get()) is not None:
                running[index] = started = clock.now_ns()
                call()
                del running[index]
                answers.answers.append(Answer(arrived, started, done := clock.now_ns()))
                if most_over and done - arrived > most_over[0] and next(over) >= most_over[1]:
                    clear.set()
        except BaseException:
            running.pop(index, None)
            failed.set()
            raise

    with clock.no_collection():
        answers.began = clock.now_ns()
        _join(
            [partial(work, *one) for one in enumerate(calls)] + [release],
            failed.set,
            running,
            patience_s,
        )
    answers.answers.sort()
    return answers


def closed_loop(
    calls: Sequence[Call],
    clients: int,
    duration_ns: float,
    least: int,
    stop: Callable[[], bool] = lambda: False,
    patience_s: float = math.inf,
) -> Answers:
    """Keep a number of requests in flight.

    Args:
        calls: one for each worker thread; each returns only when its work is done.
        clients: requests in flight; those above the number of workers wait for one.
        duration_ns: ends after this,
        least: and at least as many answers,
        stop: or when this is true, asked after each answer.
        patience_s: seconds that a call may take.

    Returns:
        Answers until the end; what was in flight then is left out.

    Raises:
        NeverReturned: a call took longer.
        Exception: whatever a call raises; the load ends then.
    """
    answers, over = Answers(len(calls)), Event()
    requests: SimpleQueue[int | None] = SimpleQueue()
    running: dict[int, int] = {}

    def end() -> None:
        over.set()
        for _ in calls:
            requests.put(None)

    def work(index: int, call: Call) -> None:
        try:
            while (arrived := requests.get()) is not None:
                running[index] = started = clock.now_ns()
                call()
                del running[index]
                done = clock.now_ns()
                if over.is_set():
                    return
                answers.answers.append(Answer(arrived, started, done))
                enough = done - answers.began >= duration_ns and len(answers.answers) >= least
                if not enough and stop():
                    enough = answers.stopped = True
                if enough:
                    answers.ended = done
                    end()
                    return
                requests.put(done)
        except BaseException:
            running.pop(index, None)
            end()
            raise

    with clock.no_collection():
        answers.began = clock.now_ns()
        for _ in range(clients):
            requests.put(answers.began)
        _join([partial(work, *one) for one in enumerate(calls)], end, running, patience_s)
    answers.answers = sorted(one for one in answers.answers if one.done <= answers.ended)
    return answers


def _wait_until(at: int, failed: Event, stopped: Callable[[], bool]) -> bool:
    """Wait for the clock; False if the load failed or was stopped meanwhile. Polling lets other
    threads run: one that keeps the interpreter's lock would delay every answer.
    """
    while (left := at - clock.now_ns()) > 0:
        if left <= _POLL_NS:
            time.sleep(0)
        elif failed.wait(min(_ASK_S, (left - _POLL_NS) / 1e9)) or stopped():
            return False
    return not failed.is_set()


def _cleared(requests: SimpleQueue[int | None]) -> list[int | None]:
    waiting: list[int | None] = []
    with suppress(Empty):
        while True:
            waiting.append(requests.get_nowait())
    return waiting


def _join(
    works: Sequence[Callable[[], None]],
    end: Callable[[], object],
    running: dict[int, int],
    patience_s: float,
) -> None:
    """Do the works, each on a thread that does not keep the process from ending.

    Args:
        works: what the threads do.
        end: lets them end.
        running: start of each call in progress, nanoseconds.
        patience_s: seconds that a call may take.
    """
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:  # raised below
            errors.append(exc)

    threads = [Thread(target=guarded, args=(work,), name="load", daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_ASK_S)
                began = min(list(running.values()), default=None)
                if began is not None and clock.now_ns() - began > patience_s * 1e9:
                    raise NeverReturned(f"a run did not return within {patience_s:.3g} s")
    except NeverReturned:
        end()
        raise
    except BaseException:  # Ctrl-C: the calls must be over before their session is closed
        end()
        for thread in threads:
            thread.join(min(patience_s, TIMEOUT_MAX))
        raise
    if errors:
        raise errors[0]
