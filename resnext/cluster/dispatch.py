"""Units to workers, until each is settled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from resnext.errors import MissingRequirement, ResnextError, UsageError
from resnext.progress import Amount, Step

from .crew import Answer, Beat, Crew, Ended, Event, Ready
from .units import Settled, Unit

#: Silence after which it is said what is missing, seconds; after every further one, too.
NOTICE_S = 60.0
#: Silence after which a worker counts as hung, seconds.
PATIENCE_S = 1800.0
#: How long to wait for workers before looking at the clock and at the slots, seconds.
_LOOK_S = 1.0


def dispatch(
    units: Iterable[Unit],
    crew: Crew,
    *,
    tries: int = 3,
    notice_s: float = NOTICE_S,
    patience_s: float = PATIENCE_S,
    doing: str = "units",
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Settled]:
    """Give units to the workers of ``crew``, in order, and yield each as it is settled.

    A worker that is lost gives its units back. The one that it was at counts as tried; those that
    it merely held do not, so that a unit which kills its worker takes no other with it.

    Args:
        units: what to do; ids are unique.
        crew: who does it, entered by the caller: ``with LocalCrew(...) as crew``.
        tries: workers that may be lost over one unit, or in one slot before they are made.
        notice_s: silence after which ``say`` gets a line about what is missing, seconds.
        patience_s: silence after which a worker is ended and its units are given back, or, if no
            worker can be had, units are lost, seconds. Work that takes longer calls
            `resnext.cluster.worker.beat` in between.
        doing: what units are, in the plural, for progress.
        say: called with one line, or a `Step`, at every change.
        clock: seconds, for tests.

    Yields:
        How each unit was settled, exactly once.

    Raises:
        UsageError: two units have the same id.
        ResnextError: what the factory of the workers raised everywhere.
        MissingRequirement: workers died everywhere before they were made, or there was none for
            ``patience_s``.
    """
    board = _Board(list(units), tries, doing)
    heard = noticed = clock()
    while board.left:
        for slot, place in crew.slots().items():
            if board.has_work_for(slot, place):
                crew.start(slot)
                board.workers[slot] = _Worker(place, clock())
        if not board.workers and board.closed and crew.slots().keys() <= board.closed.keys():
            yield from board.give_up(str(next(iter(board.closed.values()))))
            return
        for slot, unit in board.hand_out(crew.depth):
            crew.give(slot, unit.id, unit.payload)
            if len(board.workers[slot].held) == 1:
                board.workers[slot].heard = clock()
        for event in crew.wait(min(_LOOK_S, notice_s)):
            if event.slot in board.workers:
                heard = noticed = clock()
                board.workers[event.slot].heard = heard
                settled = board.take(event)
                say(Step(board.line(event), board.amount))
                if settled is not None:
                    yield settled
        for slot, worker in list(board.workers.items()):
            if (worker.held or not worker.ready) and clock() - worker.heard >= patience_s:
                crew.stop(slot)
                if worker.ready:
                    heard = clock()
                ended = Ended(slot, f"no sign of life for {patience_s:.0f} s")
                settled = board.take(ended)
                say(Step(board.line(ended), board.amount))
                if settled is not None:
                    yield settled
        if clock() - noticed >= notice_s:
            noticed = clock()
            say(Step(board.silence(crew.missing(), clock() - heard), board.amount))
        if clock() - heard >= patience_s and not any(w.held for w in board.workers.values()):
            missing = crew.missing()
            reason = f"no worker for {patience_s:.0f} s" + (f": {missing}" if missing else "")
            yield from board.give_up(reason)


@dataclass
class _Worker:
    place: str
    heard: float
    ready: bool = False
    held: deque[Unit] = field(default_factory=deque)


class _Board:
    """Who does what."""

    def __init__(self, units: list[Unit], tries: int, doing: str) -> None:
        self.amount = Amount(total=len(units))
        self.workers: dict[str, _Worker] = {}
        #: Slots without a further worker, and why.
        self.closed: dict[str, ResnextError] = {}
        self._queue = deque(units)
        self._most, self._doing = tries, doing
        self._tried: dict[str, int] = {}
        self._starts: dict[str, int] = {}
        self._places: dict[str, str] = {}
        if len({unit.id for unit in units}) < len(units):
            raise UsageError("two units have the same id")

    @property
    def left(self) -> int:
        return self.amount.total - self.amount.done

    def has_work_for(self, slot: str, place: str) -> bool:
        """Whether to start a worker in ``slot``: not for units that other workers will take."""
        if slot in self.workers or slot in self.closed:
            return False
        idle = sum(1 for w in self.workers.values() if w.place == place and not w.held)
        suited = 0
        for unit in self._queue:
            suited += _suits(unit, place)
            if suited > idle:
                return True
        return False

    def hand_out(self, depth: int) -> Iterator[tuple[str, Unit]]:
        """Units for workers that are ready: one for each first, then more up to ``depth``."""
        for full in range(1, depth + 1):
            for slot, worker in self.workers.items():
                if worker.ready and len(worker.held) < full:
                    for index, unit in enumerate(self._queue):
                        if _suits(unit, worker.place):
                            del self._queue[index]
                            worker.held.append(unit)
                            yield slot, unit
                            break

    def take(self, event: Event) -> Settled | None:
        """Write down what a worker said."""
        worker = self.workers[event.slot]
        if isinstance(event, Ready):
            worker.ready = True
            self._starts.pop(event.slot, None)
        elif isinstance(event, Answer):
            return self._answered(worker, event)
        elif isinstance(event, Ended):
            return self._ended(worker, event)
        return None

    def _answered(self, worker: _Worker, answer: Answer) -> Settled | None:
        unit = next((unit for unit in worker.held if unit.id == answer.id), None)
        if unit is None:
            return None
        worker.held.remove(unit)
        self.amount.done += 1
        tries = self._tried.get(unit.id, 0) + 1
        return Settled(unit, worker.place, tries, answer.receipt, answer.error)

    def _ended(self, worker: _Worker, ended: Ended) -> Settled | None:
        del self.workers[ended.slot]
        if not worker.ready:
            self._starts[ended.slot] = self._starts.get(ended.slot, 0) + 1
            if ended.error is not None or self._starts[ended.slot] >= self._most:
                self.closed[ended.slot] = ended.error or MissingRequirement(
                    f"a worker on {worker.place} ended before it was ready: {ended.reason}"
                )
            return None
        if not worker.held:
            return None
        unit, *others = worker.held
        self._queue.extendleft(reversed(others))
        tries = self._tried[unit.id] = self._tried.get(unit.id, 0) + 1
        self._places[unit.id] = worker.place
        if tries < self._most:
            self._queue.appendleft(unit)
            return None
        self.amount.done += 1
        return Settled(unit, worker.place, tries, lost=ended.reason)

    def give_up(self, reason: str) -> Iterator[Settled]:
        """Nobody works, and nobody comes: what is left is lost.

        Raises:
            ResnextError: nothing was ever done; what the first slot's worker ended with, if any.
        """
        if not self.amount.done:
            raise next(iter(self.closed.values()), MissingRequirement(reason))
        while self._queue:
            unit = self._queue.popleft()
            self.amount.done += 1
            tries, place = self._tried.get(unit.id, 0), self._places.get(unit.id, "")
            yield Settled(unit, place, tries, lost=reason)

    def line(self, event: Event) -> str:
        """Progress in one line."""
        if isinstance(event, Ended):
            return f"lost a worker: {event.reason}"
        counts = f"{self.amount.done} of {self.amount.total} {self._doing}"
        return f"{counts}: {event.line}" if isinstance(event, Beat) and event.line else counts

    def silence(self, missing: str, seconds: float) -> str:
        """What is being waited for, in one line."""
        if missing:
            return f"nothing for {seconds:.0f} s: {missing}"
        held = [f"{unit.id} on {w.place}" for w in self.workers.values() for unit in w.held]
        what = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
        return f"nothing for {seconds:.0f} s; waiting for {what or 'a worker'}"


def _suits(unit: Unit, place: str) -> bool:
    return unit.places is None or place in unit.places
