"""Progress of a TensorRT build on a terminal, and the way to cancel it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

#: Called with (phase, parent or None, steps done, steps in all); from any thread.
Watch = Callable[[str, "str | None", int, int], None]


@dataclass(eq=False)
class _Phase:
    """A phase that is under way. Names are no key: one may be under way twice, even under one
    parent.
    """

    name: str
    parent: str | None
    steps: int
    depth: int
    bar: TaskID | None
    thread: int = field(default_factory=threading.get_ident)


class BuildWatch:
    """What a build has reached. Phases of one name come again under other parents, each with a bar
    of its own.

    Args:
        progress: where bars are drawn; None draws none.
        watch: called at every step.
    """

    def __init__(self, progress: Progress | None = None, watch: Watch | None = None) -> None:
        self.cancelled = False
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
        """A step of ``phase`` is done; returns False where the build is to stop."""
        with self._lock:
            found = self._innermost(phase)
            if found is not None:
                if self._progress is not None and found.bar is not None:
                    self._progress.update(found.bar, completed=done + 1)
                self._tell(found.name, found.parent, done + 1, found.steps)
            return not self.cancelled

    def finish(self, phase: str) -> None:
        """A phase ends; also one that is cut short."""
        with self._lock:
            found = self._innermost(phase)
            if found is not None:
                self._open.remove(found)
                if self._progress is not None and found.bar is not None:
                    self._progress.remove_task(found.bar)

    def _innermost(self, phase: str | None) -> _Phase | None:
        """The library names the phase alone; where several bear that name, it means one that this
        thread began.
        """
        named = [entry for entry in reversed(self._open) if entry.name == phase]
        own = (entry for entry in named if entry.thread == threading.get_ident())
        return next(own, named[0] if named else None)

    def _tell(self, phase: str, parent: str | None, done: int, steps: int) -> None:
        if self._watch is not None:
            self._watch(phase, parent, done, steps)


def monitor_for(trt: Any, watch: BuildWatch) -> Any:
    """The library's IProgressMonitor that drives ``watch``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the library is only known when it is loaded
        """Passes everything on."""

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
    """Bars on stderr where that is a terminal, one for each phase that is under way; silence
    elsewhere.
    """
    if not sys.stderr.isatty():
        yield BuildWatch(None, watch)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield BuildWatch(progress, watch)


def run_cancellable(work: Callable[[], T], watch: BuildWatch) -> T:
    """Run ``work`` on a thread of its own, so that Ctrl-C reaches Python while the library builds.

    On an interruption the build is told to stop, waited for, and the interruption goes on its way.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    begin, finished = threading.Event(), threading.Event()

    def body() -> None:
        begin.wait()
        try:
            if not watch.cancelled:
                outcome.append(work())
        except BaseException as exc:  # handed to the thread that waits
            failure.append(exc)
        finally:
            finished.set()

    thread = threading.Thread(target=body, name="trt-build", daemon=True)
    try:
        thread.start()
        begin.set()
        # Not Thread.join(): before Python 3.13 one that is interrupted takes the thread for ended.
        while not finished.wait(0.05):
            pass
    except BaseException:
        watch.cancelled = True
        begun = begin.is_set()
        begin.set()
        while begun and not finished.is_set():
            # Nor does a second Ctrl-C go first: the library, still at work, would crash the process
            # as it ends.
            with suppress(KeyboardInterrupt):
                finished.wait(0.05)
        raise
    if failure:
        raise failure[0]
    return outcome[0]
