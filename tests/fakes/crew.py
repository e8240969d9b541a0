"""A crew without processes, whose workers do as they are told, and factories for real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Self

from resnext.cluster.crew import Answer, Ended, Event, Ready
from resnext.cluster.worker import beat
from resnext.errors import BadInput, MissingRequirement, UsageError

#: What a fake worker does with a unit: slot, id, payload; None for silence.
Doing = Callable[[str, str, Any], Event | None]


class FakeCrew:
    """Workers that answer at once, in simulated time.

    Args:
        places: by slot.
        does: what a worker does with a unit; by default its receipt is the payload.
        starts: what a slot says when it is started; None for silence.
        lacks: what `missing` says.
    """

    def __init__(
        self,
        places: Mapping[str, str],
        does: Doing = lambda slot, id, payload: Answer(slot, id, payload),
        starts: Callable[[str], Event | None] = Ready,
        *,
        depth: int = 1,
        lacks: str = "",
    ) -> None:
        self.places, self.depth, self.now = dict(places), depth, 0.0
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.given: list[tuple[str, str]] = []
        self._does, self._starts, self._lacks = does, starts, lacks
        self._events: deque[Event] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def clock(self) -> float:
        """Simulated seconds."""
        return self.now

    def slots(self) -> Mapping[str, str]:
        return self.places

    def start(self, slot: str) -> None:
        self.started.append(slot)
        self._add(self._starts(slot))

    def give(self, slot: str, id: str, payload: Any) -> None:
        self.given.append((slot, id))
        self._add(self._does(slot, id, payload))

    def stop(self, slot: str) -> None:
        self.stopped.append(slot)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        if not self._events:
            self.now += timeout_s
            return []
        event = self._events.popleft()
        if isinstance(event, Ended):  # what it held is never answered
            self._events = deque(other for other in self._events if other.slot != event.slot)
        return [event]

    def missing(self) -> str:
        return self._lacks

    def _add(self, event: Event | None) -> None:
        if event is not None:
            self._events.append(event)


def doubling() -> Callable[[int], tuple[int, int]]:
    """A worker that doubles, and says who it is."""
    return lambda number: (2 * number, os.getpid())


def refusing(message: str) -> Callable[[Any], Any]:
    """No worker."""
    raise MissingRequirement(message)


def meeting(count: int) -> Callable[[int], int]:
    """A worker whose units wait until there are ``count`` of them."""
    met = threading.Barrier(count, timeout=20)

    def work(number: int) -> int:
        met.wait()
        return number

    return work


def dying_once(folder: str) -> Callable[[int], int]:
    """A worker that is killed over the unit 2 if no other was before, and refuses the unit 3."""

    def work(number: int) -> int:
        beat(f"at {number}")
        mark = Path(folder, "killed")
        if number == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3:
            raise BadInput("3 is no good", hint="give 4")
        if number == 4:
            raise ZeroDivisionError
        if number == 5:
            return UsageError  # type: ignore[return-value]
        return number

    return work


def waiting(folder: str, go: str, parcel: Path) -> Callable[[int], tuple[int, bytes]]:
    """A worker that waits for the file ``go``, leaves a mark for each unit that it did, and returns
    what its parcel holds.
    """

    def work(number: int) -> tuple[int, bytes]:
        while not Path(go).exists():
            beat(f"waiting with {number}")
            time.sleep(0.05)
        with Path(folder, str(number)).open("a") as file:
            file.write("x")
        return number, (parcel / "model.onnx").read_bytes()

    return work


def surroundings() -> Callable[[Any], Any]:
    """A worker that says how it and what it starts are held back."""
    code = "import os; print(os.nice(0), os.environ.get('OMP_NUM_THREADS'))"

    def work(_: Any) -> str:
        words = [sys.executable, "-c", code]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    return work
