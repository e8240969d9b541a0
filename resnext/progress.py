"""Progress on a terminal, silence elsewhere.

Bars and spinners go to stderr, so that stdout stays clean for ``--json -``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

from resnext.errors import printable

T = TypeVar("T")
#: Spinners on the screen, the innermost last.
_spinning: list[Progress] = []
#: Characters of a bar, and on a terminal below 80 columns.
_BAR, _SHORT_BAR = 16, 8
#: Characters beside a description: a spinner, gaps, and the time; or also a bar.
_AROUND = len("s  0:00:00")
_AROUND_BAR = len("s   at most 0:00:00 left")
#: Drawing takes time from what a benchmark measures.
_DRAWS_PER_SECOND = 2
#: The terminal's own colors: rich's yellow and grey vanish on a light or on a dark terminal.
_STYLES = {
    "bar.back": "bright_black",
    "bar.complete": "none",
    "bar.finished": "none",
    "bar.pulse": "none",
    "progress.data.speed": "none",
    "progress.download": "none",
    "progress.elapsed": "none",
    "progress.percentage": "none",
    "progress.remaining": "none",
    "progress.spinner": "none",
}


@dataclass
class Amount:
    """How much of a step is done. Its owner changes it, and a bar shows it when it is drawn next,
    so that counting costs nothing while something is measured.

    Attributes:
        done: parts that are done.
        total: parts in all.
        at_most: whether it may end earlier.
        ends: latest time of its end, by `time.monotonic`; None if there is none.
    """

    done: int = 0
    total: int = 0
    at_most: bool = False
    ends: float | None = None


class Step(str):
    """The line of a step that knows how much of it is done.

    Attributes:
        amount: the same one for all steps that share a bar.
    """

    amount: Amount

    def __new__(cls, line: str, amount: Amount) -> Step:
        """``line`` with its ``amount``."""
        step = super().__new__(cls, line)
        step.amount = amount
        return step


def track(items: Iterable[T], description: str) -> Iterable[T]:
    """Iterate over ``items`` with a progress bar on stderr if that is a terminal."""
    if not _drawn_on():
        return items
    from rich.progress import track as rich_track

    return rich_track(items, description, console=terminal(), transient=True)


def working(description: str) -> AbstractContextManager[object]:
    """Show a spinner with ``description`` and the elapsed time on stderr if that is a terminal."""
    return _spinner(description) if _drawn_on() else nullcontext()


@contextmanager
def steps(first: str) -> Iterator[Callable[[str], None]]:
    """Show each step, from ``first`` on: on a terminal with a spinner and the elapsed time, or for
    a `Step` a bar and the time left; otherwise as one line on stderr. Yields the function that
    announces a step.
    """
    if _drawn_on():
        with _spinner(first) as announce:
            yield announce
        return
    started = time.monotonic()

    def write(step: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:7.1f} s  {printable(step)}\n")

    yield write


@contextmanager
def aside() -> Iterator[None]:
    """Clear the screen of the spinner while something else draws there."""
    drawn = _spinning[-1:]  # those around it wait for its end
    for spinner in drawn:
        spinner.stop()
    try:
        yield
    finally:
        for spinner in drawn:
            spinner.start()


@contextmanager
def transfer(name: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """Show a transfer in a bar on stderr if that is a terminal.

    Args:
        name: of the file.
        total: its size, bytes; None if it is not known.
        done: bytes that are there already.

    Yields:
        The function that adds a number of bytes.
    """
    if not _drawn_on():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with aside(), Progress(*columns, console=terminal(), transient=True) as progress:
        task = progress.add_task(name, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def _drawn_on() -> bool:
    """Whether stderr is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def terminal() -> Console:
    """stderr for bars, in colors that a light and a dark terminal show."""
    from rich.console import Console
    from rich.theme import Theme

    return Console(stderr=True, theme=Theme(_STYLES))


@contextmanager
def _spinner(description: str) -> Iterator[Callable[[str], None]]:
    from rich.progress import Progress, SpinnerColumn, TextColumn

    console = terminal()
    unicode = console.encoding.startswith("utf")
    # One at a time: rich before 14.1 refuses a second.
    with (
        aside(),
        Progress(
            SpinnerColumn("dots" if unicode else "line"),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[clock]}", markup=False),
            console=console,
            transient=True,
            refresh_per_second=_DRAWS_PER_SECOND,
        ) as progress,
    ):
        bar = _BAR if console.width >= 80 else _SHORT_BAR
        clock = _Clock(bar, unicode=unicode)
        task = progress.add_task(
            _cut(description, console.width - _AROUND), total=None, clock=clock
        )

        def announce(step: str) -> None:
            amount = step.amount if isinstance(step, Step) else None
            clock.show(amount)
            room = console.width - (_AROUND if amount is None else _AROUND_BAR + bar)
            progress.update(task, description=_cut(step, room))

        _spinning.append(progress)
        try:
            yield announce
        finally:
            _spinning.remove(progress)


def _cut(step: str, room: int) -> str:
    text = printable(step)
    return text if len(text) <= room else f"{text[: room - 3]}..."


class _Clock:
    """The elapsed time, or a bar with the time left, as it is when it is drawn.

    Args:
        bar: characters of the bar.
        unicode: whether the terminal shows more than ASCII.
    """

    def __init__(self, bar: int = _BAR, *, unicode: bool) -> None:
        self._bar = bar
        self._marks = "━─" if unicode else "#-"
        self._started = self._began = time.monotonic()
        self._amount: Amount | None = None

    def show(self, amount: Amount | None) -> None:
        """Show how much of ``amount`` is done, from its first step on; None: the elapsed time."""
        if amount is not None and amount is not self._amount:
            self._began = time.monotonic()
        self._amount = amount

    def __str__(self) -> str:
        amount, now = self._amount, time.monotonic()
        if amount is None or not amount.total:
            return _minutes(now - self._started)
        share = min(1.0, amount.done / amount.total)
        full = round(share * self._bar)
        bar = self._marks[0] * full + self._marks[1] * (self._bar - full)
        if not amount.done:
            return bar
        left = (now - self._began) * (1 / share - 1)
        if amount.ends is not None:
            left = min(left, max(0.0, amount.ends - now))
        return f"{bar} {'at most ' * amount.at_most}{_minutes(left)} left"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
