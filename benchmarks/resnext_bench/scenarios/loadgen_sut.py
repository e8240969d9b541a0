"""A session as LoadGen's system under test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from resnext.errors import NeverReturned, SessionFailed
from resnext.timing import clock

#: Set once LoadGen itself cannot end any more.
_stuck = Event()


@dataclass
class System:
    """Answers samples: on LoadGen's thread, which takes no time to hand them over, or on a thread
    for each call.

    Nothing may be raised into LoadGen, whose own threads would end the process, and LoadGen waits
    for every answer. So when a run fails or does not return, all samples are answered without
    running anything, LoadGen ends, and `run` raises. Only the server scenario, whose queries have
    planned times, takes until its planned end. A run that never returns on LoadGen's thread keeps
    LoadGen from ending: this process cannot use it again.

    Attributes:
        calls: one for each worker; each returns only when its work is done.
        patience_s: seconds after which a run never returns.
        complete: tells LoadGen that a sample is answered.
        stop: asked meanwhile; once it is true, no more samples are run.
        in_place: whether LoadGen's thread runs the only call; LoadGen must send nothing meanwhile.
        issued_ns: when LoadGen sent each query.
        queries: queries so far.
        error: why it failed; `run` raises it.
    """

    calls: Sequence[Callable[[], object]]
    patience_s: float
    complete: Callable[[int], None]
    stop: Callable[[], bool] = lambda: False
    in_place: bool = False
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
        for sample in samples:
            if self._failed.is_set():
                self.complete(sample.id)
            elif self.in_place:
                self._serve(0, self.calls[0], sample.id)
            else:
                self._samples.put(sample.id)

    def flush(self) -> None:
        """LoadGen sends no more for now; nothing is held back."""

    def run(self, test: Callable[[], None]) -> None:
        """Run LoadGen's ``test`` to its end, on another thread.

        Raises:
            NeverReturned: a run did not return in time.
            SessionFailed: LoadGen still waits for such a run of another row.
            Exception: whatever a run raised.
        """
        if _stuck.is_set():
            raise SessionFailed(
                "LoadGen still waits for a run of another row that does not return",
                hint="measure this row alone",
            )
        threads = [
            Thread(target=self._work, args=(index, call), daemon=True)
            for index, call in enumerate(self.calls)
            if not self.in_place
        ]
        tester = Thread(target=self._test, args=(test,), name="loadgen", daemon=True)
        with clock.no_collection():
            for thread in (*threads, tester):
                thread.start()
            try:
                while not self._ended.wait(0.05) and not _stuck.is_set():
                    self._watch()
            except BaseException as exc:  # Ctrl-C: LoadGen must end before its session is closed
                self._fail(exc)
                self._ended.wait(self.patience_s)
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

    def _watch(self) -> None:
        if self._failed.is_set():
            self._drain()  # what came just then, behind a run that does not return
            return
        began = min((began for _, began in list(self._running.values())), default=None)
        if began is not None and clock.now_ns() - began > self.patience_s * 1e9:
            if self.in_place:
                _stuck.set()
            self._fail(NeverReturned(f"a run did not return within {self.patience_s:.3g} s"))
        elif self.stop():
            self._fail(None)

    def _test(self, test: Callable[[], None]) -> None:
        try:
            test()
        except BaseException as exc:  # raised by `run`
            self.error = self.error or exc
        finally:
            self._ended.set()

    def _work(self, index: int, call: Callable[[], object]) -> None:
        while (sample := self._samples.get()) is not None:
            self._serve(index, call, sample)

    def _serve(self, index: int, call: Callable[[], object], sample: int) -> None:
        self._running[index] = (sample, clock.now_ns())
        try:
            if not self._failed.is_set():
                call()
        except BaseException as exc:  # raised by `run`
            self._fail(exc)
        if self._running.pop(index, None) is not None:  # not answered by the watchdog
            self.complete(sample)

    def _fail(self, error: BaseException | None) -> None:
        """Answer every sample, now and from now on."""
        self.error = self.error or error
        self._failed.set()
        for index in list(self._running):
            if (one := self._running.pop(index, None)) is not None:
                self.complete(one[0])
        self._drain()

    def _drain(self) -> None:
        with suppress(Empty):
            while True:
                if (sample := self._samples.get_nowait()) is not None:
                    self.complete(sample)
