"""The fastest of many, found without timing all of them to the end: who is slower than the leader
leaves, and the others go on.

The candidates take turns in rounds (`resnext.timing.interleave`), and times are compared within
rounds only, so that drift of the machine cancels. ``benchmarks/race_simulation.py`` sets the rules
against the full grid.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from .change import holm_p
from .intervals import CONFIDENCE, hodges_lehmann, signed_rank, signed_rank_above_p

K = TypeVar("K", bound=Hashable)

#: Why a race is over: at most one is in it, all that are in it are equally fast, or every round is
#: run.
Ended: TypeAlias = Literal["one-left", "same", "rounds"]

#: Factor on the p-values of a race. The leader is whoever came out fastest so far, which doubles
#: the chance that an equal rival looks slower, and every round asks again: in simulation, each of
#: two equal candidates is dropped in 13 % of races without it, and in 4 % with it.
_LOOKS = 4


@dataclass(frozen=True)
class Rules:
    """When a candidate is dropped, and when a race ends.

    Attributes:
        early_rounds: rounds that the early rule takes: the fewest in which a single disturbed visit
            drops nobody.
        early_factor: by how much slower than the leader is out early; no test is needed far beyond
            what a visit varies by (1.2 % on a busy machine).
        test_from: rounds from which the signed-rank test decides: the fewest that have a 95 %
            interval.
        confidence: 1 - the share of equal candidates that may be dropped; also of the intervals
            that end a race.
        margin: share that counts as no difference; a choice may be that much slower than the best.
        rounds: most rounds, by which ratios of visits that vary by 1.2 % have an interval narrower
            than the margin. Who returns gets those that it missed (`Race.leave`).
    """

    early_rounds: int = 2
    early_factor: float = 1.25
    test_from: int = 6
    confidence: float = CONFIDENCE
    margin: float = 0.01
    rounds: int = 24


#: The rules that the simulation justifies.
RULES = Rules()


@dataclass(frozen=True)
class Dropped(Generic[K]):
    """Why a candidate is out.

    Attributes:
        round: index of the last round before.
        leader: the fastest at that time.
        ratio: its time over the leader's; if it was dropped early, the lower median, which is the
            better of two rounds.
        p_value: of "it is not slower", corrected for the number of rivals and for being asked
            every round; None if it was dropped early.
        rounds: number of rounds that both were in.
    """

    round: int
    leader: K
    ratio: float
    p_value: float | None
    rounds: int

    @property
    def reason(self) -> str:
        """In a sentence without an end: ``6.1 % slower than X (p = 0.003, 8 rounds)``, or ``at
        least 29 % slower than X after 2 rounds``.
        """
        percent = 100 * (self.ratio - 1)
        slower = f"{percent:.{0 if percent >= 10 else 1}f} % slower than {self.leader}"
        if self.p_value is None:
            return f"at least {slower} after {self.rounds} rounds"
        return f"{slower} (p = {self.p_value:.1g}, {self.rounds} rounds)"


class Race(Generic[K]):
    """A race between ``candidates``: the caller times those `in_race` and calls `add`.

    It depends on nothing but its rounds, and on who joined and left when: adding stored rounds to a
    new race restores it.

    Args:
        candidates: any number, in an order that decides ties.
        rules: of the race.

    Attributes:
        rules: of the race.
        rounds: number of rounds so far.
        leader: the fastest in the race, by the log ratios of the rounds that two of them were both
            in; of equal ones the first. None before the first round, and if nobody is left.
    """

    def __init__(self, candidates: Iterable[K], rules: Rules = RULES) -> None:
        self.rules = rules
        self.rounds = 0
        self.leader: K | None = None
        self._logs: dict[K, dict[int, float]] = {candidate: {} for candidate in candidates}
        self._dropped: dict[K, Dropped[K]] = {}
        self._missed = 0

    @property
    def in_race(self) -> tuple[K, ...]:
        """Who is still in it, in the order given."""
        return tuple(each for each in self._logs if each not in self._dropped)

    @property
    def dropped(self) -> dict[K, Dropped[K]]:
        """Who was dropped, and why; the first to go comes first."""
        return dict(self._dropped)

    @property
    def ended(self) -> Ended | None:
        """Why the race is over; None while it is not.

        A race of one is over before its first round, and so is one that everybody left.
        """
        rivals = len(self.in_race) - 1
        if rivals < 1:
            return "one-left"
        if len(self.same()) == rivals:
            return "same"
        return "rounds" if self.rounds >= self.rules.rounds + self._missed else None

    def add(self, times: Mapping[K, float]) -> None:
        """Add a round, and drop who is slower than the leader. Leave out a round in which the
        machine was disturbed.

        Args:
            times: one value for each one in the race, in any unit. Who is missing was not timed:
                the round counts for the pairs of the others. Who is out already may be there; it
                stays out.

        Raises:
            ValueError: a candidate is not of this race, or a time is no positive number.
        """
        for candidate, time in times.items():
            self._known(candidate)
            if not 0 < time < math.inf:
                raise ValueError(f"the time of {candidate!r} is {time!r}: not a positive number")
        for candidate, time in times.items():
            self._logs[candidate][self.rounds] = math.log(time)
        self.rounds += 1
        self._judge()

    def join(self, candidate: K) -> None:
        """Let ``candidate`` in, which takes part from the next round on.

        Raises:
            ValueError: it takes part already.
        """
        if candidate in self._logs:
            raise ValueError(f"{candidate!r} is in the race already")
        self._logs[candidate] = {}

    def leave(self, candidate: K) -> None:
        """Take out ``candidate``, which failed or may not win, as if it had never taken part.

        Who was dropped for being slower than it is in the race again, unless the next leader is
        faster, too: look at `in_race` afterwards.

        Raises:
            ValueError: it is not of this race, or left before.
        """
        self._known(candidate)
        del self._logs[candidate]
        self._dropped = {
            each: verdict
            for each, verdict in self._dropped.items()
            if candidate not in (each, verdict.leader)
        }
        self._judge()
        timed = (max(self._logs[each], default=-1) for each in self.in_race)
        self._missed = max([self._missed, *(self.rounds - 1 - last for last in timed)])

    def ranking(self) -> tuple[K, ...]:
        """Everybody: the leader, the others in the race by their `ratio`, then those that were
        dropped by theirs.
        """

        def place(candidate: K) -> tuple[bool, bool, float]:
            ratio = self.ratio(candidate)
            slower = math.inf if ratio is None else ratio
            return candidate in self._dropped, candidate != self.leader, slower

        return tuple(sorted(self._logs, key=place))

    def ratio(self, candidate: K) -> float | None:
        """The time of ``candidate`` over the leader's, in the rounds that both were in; of who was
        dropped before there was one, by way of whom it was slower than. None if there is neither.
        """
        if ratios := self._ratios(candidate, self.leader):
            return math.exp(self._center(ratios))
        verdict = self._dropped.get(candidate)
        by_way = None if verdict is None else self.ratio(verdict.leader)
        return None if verdict is None or by_way is None else verdict.ratio * by_way

    def same(self) -> tuple[K, ...]:
        """Those in the race, without the leader, that are as fast as the leader: the interval of
        their ratio lies within the margin.

        A race ends if that is so for all of them. That claim takes no correction for their number:
        it needs every interval, where "slower" needs one of many.
        """
        return tuple(each for each in self.in_race if each != self.leader and self._is_same(each))

    def _judge(self) -> None:
        self.leader = leader = self._fastest()
        if leader is None:
            return
        ratios = {each: self._ratios(each, leader) for each in self.in_race if each != leader}
        tested = {each: of for each, of in ratios.items() if len(of) >= self.rules.test_from}
        p_values = holm_p([signed_rank_above_p(of) for of in tested.values()])
        for (each, of), p_value in zip(tested.items(), p_values, strict=True):
            if (p_value := min(1.0, p_value * _LOOKS)) <= 1 - self.rules.confidence:
                self._drop(each, leader, hodges_lehmann(of), p_value, len(of))
        for each, of in ratios.items():
            if each not in self._dropped and len(of) >= self.rules.early_rounds:
                slower = statistics.median_low(of)  # the lower of two: one may be disturbed
                if slower >= math.log(self.rules.early_factor):
                    self._drop(each, leader, slower, None, len(of))
        self.leader = self._fastest()

    def _drop(
        self, candidate: K, leader: K, slower: float, p_value: float | None, rounds: int
    ) -> None:
        self._dropped[candidate] = Dropped(
            self.rounds - 1, leader, math.exp(slower), p_value, rounds
        )

    def _fastest(self) -> K | None:
        leader: K | None = None
        for each in self.in_race:
            ratios = self._ratios(each, leader)
            first = leader is None and bool(self._logs[each])
            if first or (ratios and self._center(ratios) < 0):
                leader = each
        return leader

    def _center(self, ratios: Sequence[float]) -> float:
        """The median of few rounds, of which one may be disturbed. Later Hodges-Lehmann: the median
        of a candidate that has two modes is one of the two, by chance.
        """
        few = len(ratios) < self.rules.test_from
        return statistics.median(ratios) if few else hodges_lehmann(ratios)

    def _is_same(self, candidate: K) -> bool:
        ratios = self._ratios(candidate, self.leader)
        interval = signed_rank(ratios, self.rules.confidence)
        if interval is None or len(ratios) < self.rules.test_from:
            return False
        bound = math.log1p(self.rules.margin)
        return -bound <= interval.low and interval.high <= bound

    def _ratios(self, candidate: K, other: K | None) -> list[float]:
        """Log ratios of the rounds that both were in."""
        others = {} if other is None else self._logs[other]
        return [log - others[at] for at, log in self._logs[candidate].items() if at in others]

    def _known(self, candidate: K) -> None:
        if candidate not in self._logs:
            raise ValueError(f"{candidate!r} is not in the race")
