"""The race of a search: interleaved rounds, until one candidate is known to be the fastest of those
that meet every gate.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from resnext.errors import ResnextError
from resnext.progress import Amount, Step
from resnext.timing import clock
from resnext.timing.interleave import shuffled
from resnext.timing.race import Race, Rules
from resnext_bench.deadline import Deadline
from resnext_bench.stats import LEAST_SAMPLES

from . import amounts
from .board import Board
from .gates import KINDS, limit_text, missed
from .preparing import out_of_time
from .record import Ended
from .sessions import Sessions
from .workshop import Fall, fall_of_error

#: Share of the time after which the race ends, so that the rest is left to measure the pick again.
RACE_SHARE = 0.8
#: Share of what is left then for a race that begins late, since a build took longer than expected:
#: what one has of the rest that begins in time.
_SHARE_OF_REST = 0.6
#: Rounds in which the baseline is visited: enough for an interval, and it is the slowest of all.
BASELINE_ROUNDS = 8
#: Timed seconds of a visit: at least and at most.
_LEAST_VISIT_S, _MOST_VISIT_S = 0.02, 0.25
#: Share of the grid's visits that a race makes, by which visits are fitted into the time.
_RACED_SHARE = 0.3
#: A disturbed visit is repeated as often, and all of them for this share of the visits.
_REPEATS, _REPEATED_SHARE = 2, 0.5
#: Times the least number of samples of a percentile, beyond which its bound hardly gets tighter.
_SAMPLES_TIMES = 2
#: Rounds of the pick: with fewer there is no interval.
_PICK_ROUNDS = 6


class Racing:
    """The race between the candidates of ``board`` that are open, or that have rounds already.

    Args:
        board: what is known of them.
        sessions: those that are open.
        rules: of the race.
        seed: of the order of visits.
        deadline: of the search.
        say: called with a `Step` at every round.
        save: called after every round.

    Attributes:
        race: by names of candidates.
        ended: why it ended; None while it runs.
        visits: that it made so far.
        disturbed: those of this start that something else disturbed.
        grid_visits: of measuring everybody in every round.
    """

    def __init__(
        self,
        board: Board,
        sessions: Sessions,
        rules: Rules,
        *,
        seed: int,
        deadline: Deadline,
        say: Callable[[str], None],
        save: Callable[[], None],
    ) -> None:
        self._board, self._sessions = board, sessions
        self._deadline, self._say, self._save = deadline, say, save
        left_s = max(deadline.left_s(RACE_SHARE), _SHARE_OF_REST * deadline.left_s())
        self._ends_s = deadline.spent_s() + left_s
        self._order: Callable[[Sequence[str], int], Sequence[str]] = shuffled(seed)
        self._repeats = 0
        names = [
            name
            for name in board
            if board[name].outcome != "baseline" and (name in sessions or board[name].rounds_ns)
        ]
        #: Index of the next round of all that is timed, the leader's visits alone included.
        self._next = 1 + max((max(board[n].rounds_ns, default=-1) for n in board), default=-1)
        if self._next and any(not board[name].rounds_ns for name in names):
            rules = replace(rules, rounds=rules.rounds + self._next)  # for those that are new
        self.race = Race(names, rules)
        self.ended: Ended | None = None
        self.visits = sum(len(board[name].rounds_ns) for name in names)
        self.disturbed = 0
        self.grid_visits = len(names) * rules.rounds
        self._amount = Amount(self.visits, max(1, self.grid_visits), True, deadline.ends)
        self._replay()
        sessions.visit_ns = self._fitting_ns(len(self.race.in_race))

    def winner(self) -> str | None:
        """Race until the leader has proven what was asked of its times; None if nobody can."""
        while self.race.in_race:
            while self.race.ended is None and not self._over():
                self._round()
            self.ended = self.race.ended or (
                "interrupted" if self._deadline.interrupted else "time"
            )
            leader = self.race.leader or self.race.in_race[0]
            if (fall := self.proven(leader)) is None:
                return leader
            self.fell(leader, fall)
        open_ends = any(self._board[name].outcome == "not-measured" for name in self._board)
        if self._deadline.interrupted:
            self.ended = "interrupted"
        elif self.ended is None or open_ends:
            self.ended = "time" if open_ends else "one-left"
        return None

    def proven(self, name: str) -> Fall | None:
        """Visit a candidate alone until its times prove what was asked of them; why they do not.

        The outputs of its last timed run are compared once more.
        """
        board = self._board
        needed = self._needed(name)
        for most in (needed, _SAMPLES_TIMES * needed):
            while not self._enough(name, most) and not self._over():
                if (fall := self._alone(name, most)) is not None:
                    return fall
            gate = missed(board[name].gates, latency=True)
            if gate is None or gate.actual is None:
                break
        if not board[name].rounds_ns:
            return out_of_time(self._deadline, "it was timed")
        if gate is not None and gate.actual is None:
            count = board.count(name)
            return replace(
                out_of_time(self._deadline, f"its {gate.name} was known"),
                reason=f"its {gate.name} is not known: {count} of {needed} runs before"
                f" {'the interruption' if self._deadline.interrupted else 'time was up'}",
            )
        if gate is not None:
            return Fall("gate", amounts.gate(gate))
        return self._sessions.wrong_now(name)

    def _needed(self, name: str) -> int:
        """Timed runs that the limits on time take."""
        kinds = [KINDS[gate.name] for gate in self._board[name].gates]
        return max((LEAST_SAMPLES[kind.percent] for kind in kinds if kind.latency), default=0)

    def _enough(self, name: str, samples: int) -> bool:
        return (
            len(self._board[name].rounds_ns) >= _PICK_ROUNDS and self._board.count(name) >= samples
        )

    def _alone(self, name: str, samples: int) -> Fall | None:
        """One visit to the leader without the others, but beside a baseline that has too few rounds
        for an interval; why the leader is out, if it fails.
        """
        if (fall := self._sessions.opened(name)) is not None:
            return fall
        board, index = self._board, self._next
        count = board.count(name)
        line = f"measuring {name} alone: {count} of {samples} runs" if samples else name
        self._say(Step(f"leader {line}", self._amount))
        times: dict[str, tuple[int, ...]] = {}
        base = [each for each in self._baselines() if len(board[each].rounds_ns) < _PICK_ROUNDS]
        for each in self._order((name, *base), index):
            try:
                times[each], _ = self._sessions.time(each)
            except ResnextError as exc:
                fall = replace(fall_of_error(exc), outcome="failed")
                if each == name:
                    return fall
                self.fell(each, fall)
        for each, found in times.items():
            board.timed(each, index, found)
        self._next += 1
        self._save()
        return None

    def _baselines(self) -> list[str]:
        """Those that are open."""
        board = self._board
        return [
            name for name in board if board[name].outcome == "baseline" and name in self._sessions
        ]

    # ---- rounds

    def _replay(self) -> None:
        """Add the rounds that were measured before."""
        board = self._board
        for index in range(self._next):
            if self.race.ended is not None:
                return
            for name in self.race.in_race:
                if board[name].outcome == "failed" and index not in board[name].rounds_ns:
                    self.race.leave(name)
            self._judge(index)
        for name in self.race.in_race:
            if board[name].outcome == "failed":
                self.race.leave(name)
        self._note_dropped()

    def _round(self) -> None:
        """Visit everybody in the race, and drop who is slower. A round that is cut short counts for
        nothing.
        """
        index, board = self._next, self._board
        for name in self.race.in_race:
            if (fall := self._sessions.opened(name)) is not None:  # dropped, and in again
                self.fell(name, fall)
        racing = self.race.in_race
        others = self._baselines() if index < BASELINE_ROUNDS else []
        leader = "" if self.race.leader is None else f"leader {self.race.leader}, "
        total = len(racing) + len(self.race.dropped)
        self._say(Step(f"round {index + 1}: {leader}{len(racing)} of {total} left", self._amount))
        times: dict[str, tuple[int, ...]] = {}
        disturbed = []
        for name in self._order((*racing, *others), index):
            if self._over():
                return
            if name in self._sessions and self._visit(name, times):
                disturbed.append(name)
        for name in disturbed:
            for _ in range(_REPEATS):
                if self._over() or self._repeats >= _REPEATED_SHARE * self.visits:
                    break
                self._repeats += 1
                if name not in self._sessions or not self._visit(name, times):
                    break
        for name, found in times.items():
            board.timed(name, index, found)
        self._next += 1
        self._judge(index)
        self._save()

    def _visit(self, name: str, times: dict[str, tuple[int, ...]]) -> bool:
        """Visit a candidate; whether something disturbed that. A session that fails leaves."""
        live = self._board.points[name].live
        try:
            times[name], disturbed = self._sessions.time(name)
        except ResnextError as exc:
            times.pop(name, None)
            self.fell(name, replace(fall_of_error(exc), outcome="failed"))
            return False
        self.visits += not live
        self.disturbed += disturbed and not live
        self._amount.done = self.visits
        return disturbed

    def _judge(self, index: int) -> None:
        """Let those leave that are above a limit on time, and drop those that are slower."""
        board = self._board
        for name in self.race.in_race:
            if (fall := self._too_slow(name, index)) is not None:
                self.fell(name, fall)
        racing = [name for name in self.race.in_race if index in board[name].rounds_ns]
        if racing:
            self.race.add({name: board.value(name, index) for name in racing})
        self._note_dropped()

    def _too_slow(self, name: str, index: int) -> Fall | None:
        """A limit on time that a candidate's median is above, with the rounds up to ``index``."""
        board = self._board
        rounds = [times for each, times in board[name].rounds_ns.items() if each <= index]
        if len(rounds) < self.race.rules.early_rounds:
            return None
        median_ms = statistics.median([time for each in rounds for time in each]) / 1e6
        for gate in board[name].gates:
            if KINDS[gate.name].latency and median_ms > gate.allowed:
                board.at_least(name, gate.name, median_ms)
                return Fall(
                    "gate",
                    f"its median, {median_ms:.3g} ms, is above {limit_text(gate)}",
                    "use a smaller `batch`, or fewer `streams`",
                )
        return None

    def fell(self, name: str, fall: Fall) -> None:
        """Settle a candidate that leaves the race, or a baseline that fails."""
        self._board.fell(name, fall)
        self._sessions.close(name)
        if not self._board.points[name].live:
            self.race.leave(name)
            self._note_dropped()

    def _note_dropped(self) -> None:
        """Bring the board up to the race: who was dropped, and who is in it again."""
        for name, dropped in self.race.dropped.items():
            self._board.fell(name, Fall("slower", dropped.reason))
            self._sessions.close(name)
        for name in self.race.in_race:
            if self._board[name].outcome == "slower":
                self._board.change(name, outcome="not-measured", reason="", hint="")

    def _over(self) -> bool:
        return self._deadline.interrupted or self._left_s() <= 0

    def _left_s(self) -> float:
        return self._ends_s - self._deadline.spent_s()

    def _fitting_ns(self, count: int) -> float:
        """Timed nanoseconds of a visit, so that a race of ``count`` fits into the time."""
        left_s = min(self._left_s(), 1e9)
        visits = max(1.0, _RACED_SHARE * count * self.race.rules.rounds)
        fitting = left_s / visits - clock.SETTLE_S
        return 1e9 * min(max(fitting, _LEAST_VISIT_S), _MOST_VISIT_S)
