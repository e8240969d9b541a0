"""Units to workers, until each is settled."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    broken_by: tuple[type[ResnextError], ...] = (),
    notice_s: float = NOTICE_S,
    patience_s: float = PATIENCE_S,
    doing: str = "units",
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Settled]:
    """Give units to the workers of ``crew``, in order, and yield each as it is settled.

    A worker that is lost gives its units back. The first that it held counts as tried, and is done
    alone from then on, so that a unit which kills its worker takes no other with it.

    Args:
        units: what to do; ids are unique.
        crew: who does it, entered by the caller: ``with LocalCrew(...) as crew``.
        tries: workers that may be lost over one unit; and units, or attempts to make a worker, over
            which they may be lost in one slot without one being done there.
        broken_by: errors of the work that say that the worker is broken, not the unit: it is lost.
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
    look_s = min(_LOOK_S, notice_s)
    heard = noticed = clock()
    looked = heard - look_s
    while board.left:
        if due := clock() - looked >= look_s:
            looked = clock()
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
                return
        if due or board.lost:
            board.lost = False
            slots = crew.slots()
            for slot, place in board.to_start(slots):
                crew.start(slot)
                board.start(slot, place, clock())
            if not board.workers and slots and slots.keys() <= board.closed.keys():
                yield from board.give_up(str(next(iter(board.closed.values()))))
                return
        for slot, unit in board.hand_out(crew.depth):
            crew.give(slot, unit.id, unit.payload)
            if len(board.workers[slot].held) == 1:
                board.workers[slot].heard = clock()
        for event in crew.wait(look_s):
            if event.slot in board.workers:
                heard = noticed = clock()
                board.workers[event.slot].heard = heard
                if isinstance(event, Answer) and isinstance(event.error, broken_by):
                    crew.stop(event.slot)
                    event = Ended(event.slot, str(event.error))
                settled = board.take(event)
                say(Step(board.line(event), board.amount))
                if settled is not None:
                    yield settled


@dataclass
class _Worker:
    place: str
    heard: float
    ready: bool = False
    held: deque[Unit] = field(default_factory=deque)


class _Board:
    """Who does what.

    What is done for a unit takes a time that does not depend on the number of workers or of units,
    unless units are bound to places, so that the driver keeps up with thousands of workers.

    Attributes:
        amount: units, and how many are settled.
        workers: by slot.
        closed: slots without a further worker, and why.
        lost: a worker ended, so that its slot may be free.
    """

    def __init__(self, units: list[Unit], tries: int, doing: str) -> None:
        self.amount = Amount(total=len(units))
        self.workers: dict[str, _Worker] = {}
        self.closed: dict[str, ResnextError] = {}
        self.lost = False
        self._slots: Mapping[str, str] = {}
        self._queue = _Queue(units)
        self._most, self._doing = tries, doing
        #: Slots of the workers that are ready, by the number of units that they hold.
        self._ready: defaultdict[int, dict[str, None]] = defaultdict(dict)
        #: Slots in which a worker was lost over a unit, by its id.
        self._tried: defaultdict[str, list[str]] = defaultdict(list)
        #: Over what workers were lost in a slot since a unit was done there: units, or being made.
        self._in_vain: defaultdict[str, set[str]] = defaultdict(set)
        self._places: dict[str, str] = {}
        if len({unit.id for unit in units}) < len(units):
            raise UsageError("two units have the same id")

    @property
    def left(self) -> int:
        return self.amount.total - self.amount.done

    def to_start(self, slots: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Slots that need a worker, and their places; not for units that others will take."""
        self._slots = slots
        idle = Counter(worker.place for worker in self.workers.values() if not worker.held)
        for slot, place in slots.items():
            if slot in self.workers or slot in self.closed:
                continue
            if self._queue.count(place) > idle[place]:
                idle[place] += 1
                yield slot, place

    def start(self, slot: str, place: str, now: float) -> None:
        """Write down that a worker is made in ``slot``."""
        self.workers[slot] = _Worker(place, now)

    def hand_out(self, depth: int) -> Iterator[tuple[str, Unit]]:
        """Units for workers that are ready: one for each first, then more up to ``depth``.

        A unit over which a worker was lost is done alone: units that are done at once cannot tell
        which of them it was. It goes to another slot if there is one, so that a machine which
        breaks whatever it gets does not use up all tries.
        """
        for held in range(depth):
            for slot in list(self._ready[held]) if self._queue.left else ():
                worker = self.workers[slot]
                if any(unit.id in self._tried for unit in worker.held):
                    continue
                unit = self._queue.take(worker.place)
                if unit is None:
                    continue
                if held and unit.id in self._tried:
                    self._queue.give_back(unit)
                    break
                if slot in self._tried.get(unit.id, ()) and self._others(unit):
                    self._queue.give_back(unit)
                    continue
                self._change(slot, worker.held.append, unit)
                yield slot, unit

    def _others(self, unit: Unit) -> bool:
        """Whether there is a slot for ``unit`` in which no worker was lost over it."""
        return any(
            slot not in self.closed
            and slot not in self._tried[unit.id]
            and (unit.places is None or place in unit.places)
            for slot, place in self._slots.items()
        )

    def _change(self, slot: str, change: Callable[[Unit], object], unit: Unit) -> None:
        """Change what the worker in ``slot`` holds."""
        worker = self.workers[slot]
        self._ready[len(worker.held)].pop(slot, None)
        change(unit)
        self._ready[len(worker.held)][slot] = None

    def take(self, event: Event) -> Settled | None:
        """Write down what a worker said."""
        worker = self.workers[event.slot]
        if isinstance(event, Ready):
            worker.ready = True
            self._ready[0][event.slot] = None
        elif isinstance(event, Answer):
            return self._answered(worker, event)
        elif isinstance(event, Ended):
            return self._ended(worker, event)
        return None

    def _answered(self, worker: _Worker, answer: Answer) -> Settled | None:
        unit = next((unit for unit in worker.held if unit.id == answer.id), None)
        if unit is None:
            return None
        self._change(answer.slot, worker.held.remove, unit)
        self.amount.done += 1
        self._in_vain.pop(answer.slot, None)
        tries = len(self._tried.get(unit.id, ())) + 1
        return Settled(unit, worker.place, tries, answer.receipt, answer.error)

    def _ended(self, worker: _Worker, ended: Ended) -> Settled | None:
        del self.workers[ended.slot]
        self._ready[len(worker.held)].pop(ended.slot, None)
        self.lost = True
        over = self._in_vain[ended.slot]
        over.add(worker.held[0].id if worker.held else f"making {len(over)}")
        settled = self._given_back(worker, ended)
        if ended.error is not None or len(over) >= self._most:
            without = "having done anything" if worker.ready else "being ready"
            self.closed[ended.slot] = ended.error or MissingRequirement(
                f"a worker on {worker.place} ended without {without}: {ended.reason}"
            )
        return settled

    def _given_back(self, worker: _Worker, ended: Ended) -> Settled | None:
        if not worker.held:
            return None
        unit, *others = worker.held
        for other in reversed(others):
            self._queue.give_back(other)
        self._tried[unit.id].append(ended.slot)
        tries = len(self._tried[unit.id])
        self._places[unit.id] = worker.place
        if tries < self._most:
            self._queue.give_back(unit)
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
        for unit in self._queue.rest():
            self.amount.done += 1
            tries, place = len(self._tried.get(unit.id, ())), self._places.get(unit.id, "")
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


class _Queue:
    """Units that nobody has, in order: one line for every set of places where units may be done."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._lines: dict[frozenset[str] | None, deque[tuple[int, Unit]]] = {}
        #: Lines whose units may be done at a place.
        self._at: dict[str, list[deque[tuple[int, Unit]]]] = {}
        self.left = self._first = 0
        for unit in units:
            self._lines.setdefault(unit.places, deque()).append((self.left, unit))
            self.left += 1

    def count(self, place: str) -> int:
        """Number of the units for ``place``."""
        return sum(len(line) for line in self._for(place))

    def take(self, place: str) -> Unit | None:
        """The first unit for ``place``, or None."""
        lines = [line for line in self._for(place) if line]
        if not lines:
            return None
        self.left -= 1
        return min(lines, key=lambda line: line[0][0]).popleft()[1]

    def give_back(self, unit: Unit) -> None:
        """Put ``unit``, which was taken, before all others."""
        self._first -= 1
        self.left += 1
        self._lines[unit.places].appendleft((self._first, unit))

    def rest(self) -> Iterator[Unit]:
        """Take all, in order."""
        found = sorted((it for line in self._lines.values() for it in line), key=lambda it: it[0])
        self.left = 0
        for line in self._lines.values():
            line.clear()
        return (unit for _, unit in found)

    def _for(self, place: str) -> list[deque[tuple[int, Unit]]]:
        if place not in self._at:
            self._at[place] = [
                line for places, line in self._lines.items() if places is None or place in places
            ]
        return self._at[place]
