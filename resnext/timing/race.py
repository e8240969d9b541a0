"""The fastest of many, found without timing all of them to the end: who is clearly slower than the
leader leaves, and those that are left are measured on.

The candidates take turns in rounds (`resnext.timing.interleave`), and times are compared within
rounds only, so that drift of the machine cancels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from .change import holm_p
from .intervals import CONFIDENCE, hodges_lehmann, signed_rank_above_p

K = TypeVar("K", bound=Hashable)

#: Why a race is over: at most one is in it, all that are in it are equally fast, or every round is
#: run.
Ended: TypeAlias = Literal["one-left", "same", "rounds"]


@dataclass(frozen=True)
class Rules:
    """When a candidate is dropped, and when a race ends.

    Attributes:
        early_rounds: rounds that the early rule takes: the fewest of which one can be disturbed
            without dropping anyone.
        early_factor: slower than the leader by this factor is out early. Far beyond what a visit
            varies by on a busy machine (1.2 %), so that it needs no test.
        test_from: rounds from which the signed-rank test decides: the fewest with a 95 % interval.
        confidence: 1 - the share of races in which one of two equal candidates may be dropped.
        margin: share that counts as no difference.
        rounds: most rounds of a race: a ratio is known to half a percent by then, on a machine
            whose visits vary by 1.2 %.
    """

    early_rounds: int = 2
    early_factor: float = 1.25
    test_from: int = 6
    confidence: float = CONFIDENCE
    margin: float = 0.01
    rounds: int = 24


@dataclass(frozen=True)
class Dropped(Generic[K]):
    """Why a candidate is out.

    Attributes:
        round: index of the round after which it was dropped.
        rounds: number of rounds that it and the leader were both in by then.
        leader: the fastest at that time.
        ratio: its time over the leader's.
        p_value: of "it is not slower", corrected for the number of rivals; None by the early rule.
    """

    round: int
    rounds: int
    leader: K
    ratio: float
    p_value: float | None = None

    @property
    def reason(self) -> str:
        """In a sentence."""
        slower = f"{100 * (self.ratio - 1):.2g} % slower than {self.leader}"
        if self.p_value is None:
            return f"{slower} after {self.rounds} rounds"
        return f"{slower} (p = {self.p_value:.1g}, {self.rounds} rounds)"


class Race(Generic[K]):
    """A race between ``candidates``, by `Rules`.

    It holds no clock and no sessions: the caller times those `in_race` and calls `add`. A race
    depends on nothing but the rounds that it was given, so that adding stored rounds anew restores
    it.

    Args:
        candidates: any number, in an order that decides ties.
        rules: of the race.
    """

    def __init__(self, candidates: Iterable[K], rules: Rules = Rules()) -> None:
        self.rules = rules
        self.rounds = 0
        self._place = {candidate: place for place, candidate in enumerate(candidates)}
        self._logs: dict[K, dict[int, float]] = {candidate: {} for candidate in self._place}
        self._dropped: dict[K, Dropped[K]] = {}

    @property
    def in_race(self) -> tuple[K, ...]:
        """Who is still in it, in the order given."""
        return tuple(each for each in self._place if each not in self._dropped)

    @property
    def dropped(self) -> dict[K, Dropped[K]]:
        """Who was dropped, and why, in order of time."""
        return dict(self._dropped)

    @property
    def leader(self) -> K | None:
        """The fastest in the race: whom no other beats, by the median of their log ratios over the
        rounds that both were in, or who is beaten by least. None before the first round, and if
        nobody is left.
        """
        racing = [each for each in self.in_race if self._logs[each]]
        if not racing:
            return None
        return min(racing, key=lambda each: max(self._median(each, other) for other in racing))

    @property
    def ended(self) -> Ended | None:
        """Why the race is over; None while it is not.

        A race of one is over before it began, and so is one that everybody left.
        """
        rivals = len(self.in_race) - 1
        if rivals < 1:
            return "one-left"
        if len(self.same()) == rivals:
            return "same"
        return "rounds" if self.rounds >= self.rules.rounds else None

    def add(self, times: Mapping[K, float]) -> None:
        """Add a round, and drop who is slower than the leader.

        Args:
            times: one value for each one in the race, in any unit. One that is missing was not
                timed in this round, which then counts only for pairs that were. Rounds of who is
                out already are kept, and decide nothing.

        Raises:
            ValueError: somebody never was in the race, or a time is not a positive number.
        """
        for candidate, time in times.items():
            if candidate not in self._place:
                raise ValueError(f"{candidate!r} is not in the race")
            if not 0 < time < math.inf:
                raise ValueError(f"the time of {candidate!r} is {time!r}: not a positive number")
        for candidate, time in times.items():
            self._logs[candidate][self.rounds] = math.log(time)
        self.rounds += 1
        self._drop()

    def leave(self, candidate: K) -> None:
        """Take out ``candidate``, which failed or may not win, as if it never had been in the race.

        Those that were dropped for being slower than it are in the race again, unless they are
        slower than the new leader, too. Look at `in_race` afterwards.

        Raises:
            ValueError: it never was in the race.
        """
        if candidate not in self._place:
            raise ValueError(f"{candidate!r} is not in the race")
        del self._place[candidate], self._logs[candidate]
        self._dropped = {
            each: verdict
            for each, verdict in self._dropped.items()
            if candidate not in (each, verdict.leader)
        }
        self._drop()

    def ranking(self) -> tuple[K, ...]:
        """Everybody, the leader first: those in the race by time, then those that were dropped by
        how much slower they were.
        """
        leader, racing = self.leader, self.in_race
        if leader is None:
            return (*racing, *self._dropped)

        def slower(candidate: K) -> tuple[bool, bool, float]:
            ratios = self._ratios(candidate, leader)
            # who never ran together with the leader ranks by what it was dropped for
            estimate = hodges_lehmann(ratios) if ratios else math.inf
            if not ratios and candidate in self._dropped:
                estimate = math.log(self._dropped[candidate].ratio)
            return candidate in self._dropped, candidate != leader, estimate

        return tuple(sorted(self._place, key=slower))

    def same(self) -> tuple[K, ...]:
        """Those in the race, without the leader, that are as fast as the leader within the margin:
        the interval of their ratio lies inside, with Holm's correction for their number.
        """
        leader = self.leader
        rivals = [each for each in self.in_race if each != leader]
        if leader is None or not rivals:
            return ()
        bound = math.log1p(self.rules.margin)
        p_values = holm_p([self._p_differs(each, leader, bound) for each in rivals])
        alpha = 1 - self.rules.confidence
        return tuple(each for each, p in zip(rivals, p_values, strict=True) if p <= alpha)

    def _drop(self) -> None:
        leader = self.leader
        if leader is None:
            return
        rivals = [each for each in self.in_race if each != leader]
        ratios = {each: self._ratios(each, leader) for each in rivals}
        tested = [each for each in rivals if len(ratios[each]) >= self.rules.test_from]
        p_values = holm_p([signed_rank_above_p(ratios[each]) for each in tested])
        for each, p_value in zip(tested, p_values, strict=True):
            if p_value <= 1 - self.rules.confidence:
                self._out(each, leader, hodges_lehmann(ratios[each]), p_value)
        for each in rivals:
            if each not in self._dropped and len(ratios[each]) >= self.rules.early_rounds:
                # the lower of two: a single disturbed visit drops nobody
                ratio = statistics.median_low(ratios[each])
                if ratio >= math.log(self.rules.early_factor):
                    self._out(each, leader, ratio)

    def _out(self, candidate: K, leader: K, ratio: float, p_value: float | None = None) -> None:
        rounds = len(self._ratios(candidate, leader))
        self._dropped[candidate] = Dropped(
            self.rounds - 1, rounds, leader, math.exp(ratio), p_value
        )

    def _ratios(self, candidate: K, other: K) -> list[float]:
        """Log ratios of the rounds that both were in."""
        logs, others = self._logs[candidate], self._logs[other]
        return [log - others[place] for place, log in logs.items() if place in others]

    def _median(self, candidate: K, other: K) -> float:
        ratios = self._ratios(candidate, other)
        return statistics.median(ratios) if ratios else 0.0

    def _p_differs(self, candidate: K, leader: K, bound: float) -> float:
        """Two-sided p-value of "they differ by more than ``bound``"."""
        ratios = self._ratios(candidate, leader)
        if len(ratios) < self.rules.test_from:
            return 1.0
        negative = [-ratio for ratio in ratios]
        slower, faster = (signed_rank_above_p(each, -bound) for each in (negative, ratios))
        return min(1.0, 2 * max(slower, faster))
