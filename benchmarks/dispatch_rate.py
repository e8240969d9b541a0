"""Measures what a shard takes of the driver: its descriptor out, its receipt back, bookkeeping.

    python benchmarks/dispatch_rate.py [--shards 2000] [--workers 2] [--units 500000]

Workers answer at once, so that the driver is the bound. Its processor time counts, not the wall's,
which the workers share here. A folder's descriptor lists 2,048 pictures, that of a tar file none.
For more workers than a machine has, the bookkeeping of ``units`` is timed alone, with answers one
at a time and with as many at once as there are workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import click
from typing_extensions import Self

from resnext.cluster.crew import Answer, Crew, Event, Ready
from resnext.cluster.dispatch import dispatch
from resnext.cluster.local import LocalCrew
from resnext.cluster.units import Unit

#: Descriptors like those of `resnext-batch`: path, size, time of the last change.
TAR = ("shards/000/000123.tar", 204_800_000, 1_764_000_000_000_000_000)
FOLDER = tuple((f"n01440764/n01440764_{i:05}.JPEG", 100_000 + i, TAR[2] + i) for i in range(2048))


class Echo:
    """A crew without processes: whoever gets a unit has done it.

    Args:
        count: workers.
        at_once: most answers that one wait returns.
    """

    depth = 2

    def __init__(self, count: int, at_once: int) -> None:
        self._slots = {f"worker {number}": "here" for number in range(count)}
        self._at_once = at_once
        self._said: deque[Event] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def slots(self) -> Mapping[str, str]:
        """All at the same place."""
        return self._slots

    def start(self, slot: str) -> None:
        """Ready at once."""
        self._said.append(Ready(slot))

    def give(self, slot: str, id: str, payload: Any) -> None:
        """Done at once."""
        del payload
        self._said.append(Answer(slot, id, "receipt"))

    def stop(self, slot: str) -> None:
        """Nobody hangs."""

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """The next answers."""
        del timeout_s
        return [self._said.popleft() for _ in range(min(len(self._said), self._at_once))]

    def missing(self) -> str:
        """Nothing."""
        return ""


def echo() -> Callable[[object], str]:
    """The factory of the processes' workers."""
    return lambda payload: f"receipt of {len(str(payload)[:1])}"


def driver_ms(crew: Crew, shards: int, payload: object) -> tuple[float, float]:
    """Processor time of the driver and wall time for a shard, ms, once the workers are there."""
    units = [Unit(str(number), payload) for number in range(shards)]
    with crew:
        settled = dispatch(units, crew)
        warm = sum(1 for _ in islice(settled, shards // 5))
        began = time.process_time(), time.perf_counter()
        rest = sum(1 for _ in settled)
        ended = time.process_time(), time.perf_counter()
    assert warm + rest == shards
    processor, wall = ((end - start) / rest * 1e3 for start, end in zip(began, ended, strict=True))
    return processor, wall


def rows(shards: int, workers: int, units: int) -> Iterator[tuple[str, float, float]]:
    """What is measured: its name, processor and wall time for a shard, ms."""
    for name, payload in (("a tar file", TAR), ("2,048 pictures of a folder", FOLDER)):
        crew = LocalCrew(workers, "dispatch_rate:echo", depth=2)
        yield f"{workers} processes, {name}", *driver_ms(crew, shards, payload)
    for count in (10, 1000, 10_000):
        for words, at_once in (("one at a time", 1), ("all at once", count)):
            name = f"bookkeeping for {count:,} workers, answers {words}"
            yield name, *driver_ms(Echo(count, at_once), units, TAR)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--shards", type=click.IntRange(min=10), default=2000, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--units", type=click.IntRange(min=10), default=500_000, show_default=True)
def main(shards: int, workers: int, units: int) -> None:
    """Print a table."""
    click.echo("| | driver's processor, ms a shard | wall, ms |\n| --- | ---: | ---: |")
    for name, processor, wall in rows(shards, workers, units):
        click.echo(f"| {name} | {processor:.3f} | {wall:.3f} |")


if __name__ == "__main__":
    main()
