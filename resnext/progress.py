"""Progress on a terminal, silence elsewhere.

Bars and spinners go to stderr, so that stdout stays clean for ``--json -``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

from resnext.errors import printable

T = TypeVar("T")
#: Spinners on the screen, the innermost last.
_spinning: list[Progress] = []


def track(items: Iterable[T], description: str) -> Iterable[T]:
    """Iterate over ``items`` with a progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description, console=Console(stderr=True), transient=True)


def working(description: str) -> AbstractContextManager[object]:
    """Show a spinner with ``description`` and the elapsed time on stderr if that is a terminal."""
    return _spinner(description) if sys.stderr.isatty() else nullcontext()


@contextmanager
def steps(first: str) -> Iterator[Callable[[str], None]]:
    """Show each step, from ``first`` on, with the elapsed time: in a spinner on a terminal,
    otherwise as one line on stderr. Yields the function that announces a step.
    """
    if sys.stderr.isatty():
        with _spinner(first) as announce:
            yield announce
        return
    started = time.monotonic()

    def write(step: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:7.1f} s  {printable(step)}\n")

    yield write


@contextmanager
def aside() -> Iterator[None]:
    """Clear the screen of spinners while something else draws there."""
    for spinner in _spinning:
        spinner.stop()
    try:
        yield
    finally:
        for spinner in _spinning:
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
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with aside(), Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _spinner(description: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # Seldom, because drawing takes time from what a benchmark measures.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, refresh_per_second=2
    ) as progress:
        task = progress.add_task(description, total=None)
        _spinning.append(progress)
        try:
            yield lambda step: progress.update(task, description=step)
        finally:
            _spinning.remove(progress)
