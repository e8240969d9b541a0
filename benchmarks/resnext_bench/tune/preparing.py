"""Candidates from names to open sessions, cheapest first, until half of the time is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from resnext.network.config import ResNeXtConfig
from resnext.precision import QUANTIZED
from resnext.progress import Amount, Step
from resnext.runtimes.registry import RUNTIMES
from resnext.timing import clock
from resnext_bench.deadline import Deadline

from .board import Board
from .gates import KINDS, missed
from .sessions import Sessions
from .space import METHODS, Point, Refusal, with_method
from .workshop import Fall, artifact_key

#: What holds for an artifact at all settings.
_OF_ARTIFACT = ("outcome", "reason", "hint", "gates", "accuracy", "artifact_sha256")
_COPIED = (*_OF_ARTIFACT, "size_bytes", "build_s", "delivered")
#: Visits that a timed choice of widths makes for each width, about, and the least timed seconds of
#: one.
_VISITS, _VISIT_S = 25, 0.03
#: Seconds that a compiler takes for a package or engine, at the least.
_COMPILE_S = 20.0


class Preparation:
    """Opens and proves every candidate of a board that is not settled.

    Args:
        board: the candidates, cheapest build first.
        sessions: where they are opened.
        config: of the network.
        refusal: what is known against a point before it is built.
        deadline: nothing is begun after half of it.
        say: called with a line at every step.
        save: called after every step.

    Attributes:
        first: the first candidate that was prepared, and the seconds from the start of the search
            until then; None before.
        ready: number of candidates that are to be timed.
        longest: the candidate that took longest, and its seconds; None before.
    """

    def __init__(
        self,
        board: Board,
        sessions: Sessions,
        config: ResNeXtConfig,
        *,
        refusal: Callable[[Point], Refusal | None],
        deadline: Deadline,
        say: Callable[[str], None],
        save: Callable[[], None],
    ) -> None:
        self._board, self._sessions, self._config = board, sessions, config
        self._refusal, self._deadline = refusal, deadline
        self._say, self._save = say, save
        self._fallen: dict[tuple[str, ...], str] = {}
        self._built: set[tuple[str, ...]] = set()
        self._took_s: dict[int, float] = {}
        self._run_s: dict[tuple[str, str, int], float] = {}
        self.first: tuple[str, float] | None = None
        self.ready = 0
        self.longest: tuple[str, float] | None = None

    def run(self) -> None:
        """Prepare them. Those that are out are settled on the board."""
        board = self._board
        queue = deque(
            name
            for name in board
            if board[name].outcome in ("not-measured", "baseline")
            and (not board[name].rounds_ns or board[name].outcome == "baseline")
        )
        amount = Amount(total=len(queue), ends=self._deadline.ends)
        while queue:
            name = queue.popleft()
            if self._prepare(name, amount):
                self._save()
            amount.done += 1
            for point in self._other_methods(name):
                if point.name not in board:
                    queue.appendleft(board.add(point))
                    amount.total += 1

    def _prepare(self, name: str, amount: Amount) -> bool:
        """Prepare a candidate; whether that took a step worth keeping."""
        board, point = self._board, self._board.points[name]
        if (refusal := self._refusal(point)) is not None:
            board.fell(name, Fall(refusal.outcome, refusal.reason, refusal.hint))
            board.change(name, gates=refusal.gates)
            return False
        if (other := self._fallen.get(artifact_key(point))) is not None:
            fallen = board[other]
            board.change(name, **{key: getattr(fallen, key) for key in _COPIED})
            return False
        if self._deadline.interrupted or self._deadline.opening_over():
            board.fell(name, out_of_time(self._deadline, "it was built"))
            return False
        began_s, cost = self._deadline.spent_s(), point.build_cost()
        built = artifact_key(point) in self._built
        least_s = max((took for rank, took in self._took_s.items() if rank <= cost), default=0.0)
        takes = f"builds like it took {least_s:.0f} s here"
        if board[name].artifact_sha256 is None and (about_s := self._about_s(point)) > least_s:
            least_s, takes = about_s, f"that takes about {about_s:.0f} s"
        if not built and least_s > self._deadline.opening_left_s():
            board.fell(name, out_of_time(self._deadline, f"it was built, and {takes}"))
            return False
        self._say(Step(f"preparing {name}", amount))
        known = board[name].artifact_sha256 if board[name].parity is not None else None
        fall = self._sessions.opened(name)
        if fall is None and (known is None or known != board[name].artifact_sha256):
            fall = self._sessions.proven(name)
        now_s = self._deadline.spent_s()
        if not built:
            self._built.add(artifact_key(point))
            self._took_s[cost] = max(self._took_s.get(cost, 0.0), now_s - began_s)
        if point.merge is None:
            self._run_s[_setting(point)] = self._sessions.run_s(name)
        if not point.live:
            self.first = self.first or (name, now_s)
            self.ready += fall is None
            if self.longest is None or now_s - began_s > self.longest[1]:
                self.longest = name, now_s - began_s
        if fall is not None:
            board.fell(name, fall)
            if fall.always:
                self._fallen[artifact_key(point)] = name
            self._sessions.close(name)
        return True

    def _about_s(self, point: Point) -> float:
        """About how long a compiler, or timing the widths of groups, takes for ``point``; 0 for
        builds without either.
        """
        if not point.live and RUNTIMES[point.backend].formats[0] != "onnx":
            return _COMPILE_S
        if point.merge != "auto":
            return 0.0
        widths = len(self._config.depths) * (self._config.cardinality.bit_length() - 1)
        run_s = max(_VISIT_S, self._run_s.get(_setting(point), 0.0))
        return widths * _VISITS * (clock.SETTLE_S + run_s)

    def _other_methods(self, name: str) -> tuple[Point, ...]:
        """The same point with the next calibration method, if its ranges may be to blame."""
        record, point = self._board[name], self._board.points[name]
        proven = record.parity is not None or record.accuracy is not None
        if record.outcome != "gate" or point.precision not in QUANTIZED or not proven:
            return ()
        gate = missed(record.gates, latency=False)
        if gate is not None and not KINDS[gate.name].labeled and gate.actual is not None:
            return ()  # no method makes it smaller
        place = METHODS.index(point.method or METHODS[0]) + 1
        return tuple(with_method(point, method) for method in METHODS[place : place + 1])


def _setting(point: Point) -> tuple[str, str, int]:
    """What the time of a run depends on most."""
    return point.backend, point.precision, point.batch


def out_of_time(deadline: Deadline, what: str) -> Fall:
    """Why a candidate was not measured, if time was up before ``what``."""
    if deadline.interrupted:
        return Fall("not-measured", f"interrupted before {what}")
    return Fall("not-measured", f"out of time before {what}", "give a longer `budget`")
