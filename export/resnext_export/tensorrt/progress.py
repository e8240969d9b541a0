"""Progress of a TensorRT build on a terminal, and the way to cancel it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from resnext.progress import terminal

T = TypeVar("T")

#: Called with (phase, parent or None, completed steps, total steps), from any thread.
Watch = Callable[[str, "str | None", int, int], None]


@dataclass(eq=False)
class _Phase:
    """A running phase. Names are not unique: two may run at once, even under one parent."""

    name: str
    parent: str | None
    steps: int
    depth: int
    bar: TaskID | None
    thread: int = field(default_factory=threading.get_ident)


class BuildWatch:
    """The progress of a build. Phases with the same name may have several parents, with a bar each.

    Args:
        progress: draws the bars; None draws none.
        watch: called at every step.
    """

    def __init__(self, progress: Progress | None = None, watch: Watch | None = None) -> None:
        self.canceled = False
        self._progress = progress
        self._watch = watch
        self._lock = threading.Lock()
        self._open: list[_Phase] = []

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            above = self._innermost(parent)
            depth = 0 if above is None else above.depth + 1
            bar = (
                None
                if self._progress is None
                else self._progress.add_task("  " * depth + phase, total=steps)
            )
            self._open.append(_Phase(phase, parent, steps, depth, bar))
            self._tell(phase, parent, 0, steps)

    def step(self, phase: str, done: int) -> bool:
        """A step of ``phase`` is complete. Returns False if the build should stop."""
        with self._lock:
            running = self._innermost(phase)
            if running is not None:
                if self._progress is not None and running.bar is not None:
                    self._progress.update(running.bar, completed=done + 1)
                self._tell(running.name, running.parent, done + 1, running.steps)
            return not self.canceled

    def finish(self, phase: str) -> None:
        """A phase ends, completed or not."""
        with self._lock:
            running = self._innermost(phase)
            if running is not None:
                self._open.remove(running)
                if self._progress is not None and running.bar is not None:
                    self._progress.remove_task(running.bar)

    def _innermost(self, phase: str | None) -> _Phase | None:
        """The running phase with this name; this thread's, if there are several."""
        candidates = [entry for entry in reversed(self._open) if entry.name == phase]
        own = (entry for entry in candidates if entry.thread == threading.get_ident())
        return next(own, candidates[0] if candidates else None)

    def _tell(self, phase: str, parent: str | None, done: int, steps: int) -> None:
        if self._watch is not None:
            self._watch(phase, parent, done, steps)


def monitor_for(trt: Any, watch: BuildWatch) -> Any:
    """The library's IProgressMonitor that drives ``watch``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the library is only known when it is loaded
        """Forwards every call."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.finish(phase_name)

    return Monitor()


@contextmanager
def build_bars(watch: Watch | None = None) -> Iterator[BuildWatch]:
    """Bars on stderr, one per running phase, if it is a terminal."""
    if not sys.stderr.isatty():
        yield BuildWatch(None, watch)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal(), transient=True) as progress:
        yield BuildWatch(progress, watch)


def run_cancelable(work: Callable[[], T], watch: BuildWatch) -> T:
    """Run ``work`` on a separate thread, so that Ctrl-C reaches Python during a build.

    An interruption cancels the build, waits for its end, and is raised again.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    begin, finished = threading.Event(), threading.Event()

    def body() -> None:
        begin.wait()
        try:
            if not watch.canceled:
                outcome.append(work())
        except BaseException as exc:  # raised on the waiting thread
            failure.append(exc)
        finally:
            finished.set()

    thread = threading.Thread(target=body, name="trt-build", daemon=True)
    try:
        thread.start()
        begin.set()
        # Not Thread.join(): before Python 3.13 an interrupted join() marks the thread as ended.
        while not finished.wait(0.05):
            pass
    except BaseException:
        watch.canceled = True
        begun = begin.is_set()
        begin.set()
        while begun and not finished.is_set():
            # A second Ctrl-C must not exit either, because the library, still building, would crash
            # the process.
            with suppress(KeyboardInterrupt):
                finished.wait(0.05)
        raise
    if failure:
        raise failure[0]
    return outcome[0]
