"""The pick against another candidate: in the race, and again in fresh processes."""

from __future__ import annotations

import statistics
from typing import NamedTuple, TypeAlias

from resnext.timing.change import Verdict

from . import amounts
from .record import CandidateRecord, ConfirmationRecord, Goal, TuneRecord

#: Estimate and 95 % interval of the other's time over the pick's.
Ratio: TypeAlias = tuple[float, float, float]
#: An interval whose ends are farther apart than this factor makes no headline.
_WIDE = 2.0


def candidate(record: TuneRecord, name: str | None) -> CandidateRecord | None:
    """The one of that name, or None."""
    return next((one for one in record.candidates if one.name == name), None)


def judged(ratio: Ratio, margin: float) -> Verdict:
    """The verdict on the other, as `resnext.timing.change` gives it, from its time over the
    pick's.
    """
    _, low, high = ratio
    if low > 1 + margin:
        return "SLOWER"
    if high < 1 / (1 + margin):
        return "FASTER"
    return "SAME" if low >= 1 / (1 + margin) and high <= 1 + margin else "CANNOT TELL"


class Standing(NamedTuple):
    """The pick against the baseline.

    Attributes:
        name: of the baseline.
        ratio: its time over the pick's; None with too few rounds.
        verdict: on the baseline.
        fresh: measured in fresh processes, not in the race.
    """

    name: str
    ratio: Ratio | None
    verdict: Verdict
    fresh: bool

    @property
    def speedup(self) -> str:
        """How many times as fast as the baseline the pick is: ``6.66x``; with a wide interval no
        more than its lower end: ``at least 8.39x``.
        """
        if self.ratio is None:
            return "-"
        estimate, low, high = self.ratio
        if self.verdict == "SLOWER" and high > _WIDE * low:
            return f"at least {amounts.times(low)}x"
        return f"{amounts.times(estimate)}x"


def over_baseline(record: TuneRecord) -> Standing | None:
    """The pick against eager PyTorch, from fresh processes if they were compared; None without
    a pick or a baseline.
    """
    baselines = {one.name: one for one in record.candidates if one.outcome == "baseline"}
    if not baselines or record.pick is None:
        return None
    fresh = next((one for one in record.confirmed if one.other in baselines), None)
    baseline = next(iter(baselines.values())) if fresh is None else baselines[fresh.other]
    if fresh is not None and fresh.ratio is not None:
        return Standing(baseline.name, fresh.ratio, fresh.verdict, fresh=True)
    ratio = baseline.ratio
    verdict = "CANNOT TELL" if ratio is None else judged(ratio, record.margin)
    return Standing(baseline.name, ratio, verdict, fresh=False)


def medians(one: CandidateRecord, goal: Goal) -> dict[int, float]:
    """By round: nanoseconds for an image (goal ``throughput``) or a run (``latency``)."""
    images = one.batch * one.streams if goal == "throughput" else 1
    return {
        index: (statistics.median(burst) or 1) / images
        for index, burst in sorted(one.rounds_ns.items())
        if burst
    }


def early_ratio(record: TuneRecord, one: CandidateRecord) -> float | None:
    """The time of a candidate over the pick's, the median of the rounds that both were in, however
    few; None if there are none.
    """
    pick = candidate(record, record.pick)
    base = {} if pick is None else medians(pick, record.goal)
    ratios = [ns / base[at] for at, ns in medians(one, record.goal).items() if at in base]
    return statistics.median(ratios) if ratios else None


def times_baseline(record: TuneRecord) -> str:
    """How many times as fast as eager PyTorch the pick is, if that is known; "" without a
    baseline.
    """
    standing = over_baseline(record)
    if standing is None:
        return ""
    name, ratio, verdict, fresh = standing
    if ratio is None:
        return f"not compared with {name}: too few rounds"
    where = ", in fresh processes" if fresh else ""
    known = f"{amounts.interval(ratio)}{where}"
    if standing.speedup.startswith("at least"):
        return f"{standing.speedup} {name}{where}: its rounds differ too much for a closer number"
    if verdict == "SLOWER":
        return known.replace("x (", f"x {name} (", 1)
    words = {
        "FASTER": f"slower than {name}",
        "SAME": f"as fast as {name} within {amounts.share(record.margin)}",
        "CANNOT TELL": f"not told apart from {name}",
    }
    return f"{words[verdict]}: {known}"


def confirmed(record: TuneRecord) -> list[str]:
    """One sentence for each comparison in fresh processes, then what they contradict."""
    words = {
        "SLOWER": "slower than the pick",
        "SAME": f"as fast as the pick within {amounts.share(record.margin)}",
        "FASTER": "faster than the pick",
        "CANNOT TELL": "not told apart from the pick",
    }
    lines = []
    for one in record.confirmed:
        if one.ratio is None:
            lines.append(f"{one.other} is not compared with the pick: too few rounds")
        else:
            takes = amounts.interval(one.ratio)
            lines.append(f"{one.other} is {words[one.verdict]}: takes {takes}")
    return lines + disagreements(record)


def disagreements(record: TuneRecord) -> list[str]:
    """One sentence for each thing in which fresh processes contradict the race, or do not confirm
    it.
    """
    unconfirmed = [
        f"fresh processes do not confirm that {one.other} is slower, as it was in the race"
        for one in record.confirmed
        if one.verdict in ("SAME", "CANNOT TELL") and _was_slower(record, one)
    ]
    return (
        _contradicted(record)
        + unconfirmed
        + [
            f"the race and fresh processes disagree on {one.other}: in the race it took"
            f" {amounts.interval(race)}"
            for one in record.confirmed
            if not _beaten(record, one)
            and (race := _raced(record, one)) is not None
            and one.ratio is not None
            and _apart(race, one.ratio, record.margin)
        ]
    )


def doubts(record: TuneRecord) -> list[str]:
    """What speaks against the pick: those of `disagreements` that do, and other work."""
    return _contradicted(record) + _busy(record)


def _contradicted(record: TuneRecord) -> list[str]:
    faster = [
        f"in fresh processes {one.other} is faster than the pick, and in the race it was not:"
        " measure both again"
        for one in record.confirmed
        if _beaten(record, one)
    ]
    return faster + _late(record)


def _beaten(record: TuneRecord, fresh: ConfirmationRecord) -> bool:
    """Whether a candidate that could have been chosen is faster than the pick."""
    raced = candidate(record, fresh.other)
    return fresh.verdict == "FASTER" and (raced is None or raced.outcome != "baseline")


def _was_slower(record: TuneRecord, fresh: ConfirmationRecord) -> bool:
    raced = candidate(record, fresh.other)
    return raced is not None and raced.outcome == "slower"


def _raced(record: TuneRecord, fresh: ConfirmationRecord) -> Ratio | None:
    raced = candidate(record, fresh.other)
    return None if raced is None else raced.ratio


def _late(record: TuneRecord) -> list[str]:
    """The p99 of fresh processes, if none of them proves what the gate allows."""
    pick = candidate(record, record.pick)
    p99s = [one.p99_ns for one in record.confirmed if one.p99_ns is not None]
    return [
        f"in fresh processes p99 is not proven: {amounts.milliseconds(min(p99s))} ms"
        f" (at most {gate.allowed:g} ms)"
        for gate in (() if pick is None else pick.gates)
        if gate.name == "p99" and p99s and min(p99s) / 1e6 > gate.allowed
    ]


def _busy(record: TuneRecord) -> list[str]:
    """Other work that disturbed more of the race than not."""
    if record.disturbed <= record.visits / 2:
        return []
    return [
        f"other work disturbed {record.disturbed:,} of {record.visits:,} visits: stop it and search"
        " again with `force`"
    ]


def _apart(one: Ratio, other: Ratio, margin: float) -> bool:
    """Whether two intervals are farther apart than the margin."""
    return one[1] > other[2] * (1 + margin) or other[1] > one[2] * (1 + margin)
