"""A session as LoadGen's system under test: worker threads that answer its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from resnext.errors import SessionFailed
from resnext.timing import clock

#: Seconds that a run may take at least, and times the slowest expected one.
_PATIENCE_S, _SLOWER = 10.0, 50.0
#: Once it has failed, each query still waits as long, so that LoadGen does not spin.
_PAUSE_S = 0.001


@dataclass
class System:
    """Answers samples on a thread for each call.

    Nothing may be raised into LoadGen, whose own threads would end the process, and LoadGen waits
    for every answer. So when a run fails or does not return, all samples are answered without
    running anything, LoadGen ends, and `run` raises.

    Attributes:
        calls: one for each worker; each returns only when its work is done.
        expected_s: seconds of a run.
        complete: tells LoadGen that a sample is answered.
        stop: asked meanwhile; once it is true, no more samples are run.
        issued_ns: when LoadGen sent each query.
        queries: queries so far.
        error: why it failed; `run` raises it.
    """

    calls: Sequence[Callable[[], object]]
    expected_s: float
    complete: Callable[[int], None]
    stop: Callable[[], bool] = lambda: False
    issued_ns: list[int] = field(default_factory=list)
    queries: int = 0
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self._samples: SimpleQueue[int | None] = SimpleQueue()
        self._running: dict[int, tuple[int, int]] = {}
        self._failed, self._ended = Event(), Event()

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen sends a query."""
        self.issued_ns.append(clock.now_ns())
        self.queries += 1
        if self._failed.is_set():
            self._ended.wait(_PAUSE_S)
            self._answer([sample.id for sample in samples])
            return
        for sample in samples:
            self._samples.put(sample.id)

    def flush(self) -> None:
        """LoadGen sends no more for now; nothing is held back."""

    def run(self, test: Callable[[], None]) -> None:
        """Run LoadGen's ``test`` to its end, on another thread.

        Raises:
            SessionFailed: a run did not return in time.
            Exception: whatever a run raised.
        """
        threads = [
            Thread(target=self._work, args=(index, call), daemon=True)
            for index, call in enumerate(self.calls)
        ]
        tester = Thread(target=self._test, args=(test,), daemon=True)
        patience_ns = 1e9 * max(_PATIENCE_S, _SLOWER * self.expected_s)
        with clock.no_collection():
            for thread in (*threads, tester):
                thread.start()
            while not self._ended.wait(0.05):
                now = clock.now_ns()
                started = [began for _, began in list(self._running.values())]
                if not self._failed.is_set() and started and now - min(started) > patience_ns:
                    late = (now - min(started)) / 1e9
                    self._fail(SessionFailed(f"a run did not return within {late:.0f} s"))
                elif not self._failed.is_set() and self.stop():
                    self._fail(None)
                if self._failed.is_set():  # what came just then, behind a run that does not return
                    self._drain()
        for _ in threads:
            self._samples.put(None)
        if not self._failed.is_set():
            for thread in threads:
                thread.join()
        if self.error is not None:
            raise self.error

    @property
    def stopped(self) -> bool:
        """Whether it was stopped before LoadGen's end."""
        return self._failed.is_set() and self.error is None

    def _test(self, test: Callable[[], None]) -> None:
        try:
            test()
        except BaseException as exc:  # raised by `run`
            self.error = self.error or exc
        finally:
            self._ended.set()

    def _work(self, index: int, call: Callable[[], object]) -> None:
        while (sample := self._samples.get()) is not None:
            self._running[index] = (sample, clock.now_ns())
            try:
                if not self._failed.is_set():
                    call()
            except BaseException as exc:  # raised by `run`
                self._fail(exc)
            if self._running.pop(index, None) is not None:  # not answered by the watchdog
                self._answer([sample])

    def _fail(self, error: BaseException | None) -> None:
        """Answer every sample, now and from now on."""
        self.error = self.error or error
        self._failed.set()
        for index in list(self._running):
            if (one := self._running.pop(index, None)) is not None:
                self._answer([one[0]])
        self._drain()

    def _drain(self) -> None:
        with suppress(Empty):
            while True:
                if (sample := self._samples.get_nowait()) is not None:
                    self._answer([sample])

    def _answer(self, samples: Sequence[int]) -> None:
        for sample in samples:
            self.complete(sample)
