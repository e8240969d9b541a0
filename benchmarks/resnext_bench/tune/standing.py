"""The pick against another candidate: in the race, and again in fresh processes."""

from __future__ import annotations

from collections.abc import Iterator

from resnext.timing.change import Verdict

from . import amounts
from .record import CandidateRecord, ConfirmationRecord, TuneRecord

Ratio = tuple[float, float, float]


def candidate(record: TuneRecord, name: str | None) -> CandidateRecord | None:
    """The one of that name, or None."""
    return next((one for one in record.candidates if one.name == name), None)


def confirmation(record: TuneRecord, name: str) -> ConfirmationRecord | None:
    """What fresh processes say of the pick and ``name``; None if they were not compared."""
    return next((one for one in record.confirmed if one.other == name), None)


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


def over_baseline(record: TuneRecord) -> str:
    """How many times as fast as eager PyTorch the pick is, from fresh processes if they were
    compared; "" without a baseline or an interval.
    """
    baseline = next((one for one in record.candidates if one.outcome == "baseline"), None)
    if baseline is None:
        return ""
    fresh = confirmation(record, baseline.name)
    ratio = baseline.ratio if fresh is None else fresh.ratio
    if ratio is None:
        return f"too few rounds to compare it with {baseline.name}"
    verdict = judged(ratio, record.margin) if fresh is None else fresh.verdict
    where = "" if fresh is None else ", in fresh processes"
    known = f"{amounts.interval(ratio)}{where}"
    if verdict == "SLOWER":
        return f"{known.replace('x ', f'x {baseline.name} ', 1)}"
    words = {
        "FASTER": f"slower than {baseline.name}",
        "SAME": f"as fast as {baseline.name} within {amounts.share(record.margin)}",
        "CANNOT TELL": f"not told apart from {baseline.name}",
    }
    return f"{words[verdict]}: {known}"


def confirmed(record: TuneRecord) -> list[str]:
    """One sentence for each comparison in fresh processes, and for what they contradict."""
    return [line for one in record.confirmed for line in _sentences(record, one)]


def _sentences(record: TuneRecord, fresh: ConfirmationRecord) -> Iterator[str]:
    raced = candidate(record, fresh.other)
    race = None if raced is None else raced.ratio
    words = {
        "SLOWER": "slower than the pick",
        "SAME": f"as fast as the pick within {amounts.share(record.margin)}",
        "FASTER": "faster than the pick",
        "CANNOT TELL": "not told apart from the pick",
    }[fresh.verdict]
    takes = "too few rounds" if fresh.ratio is None else f"takes {amounts.interval(fresh.ratio)}"
    yield f"{fresh.other} is {words}: {takes}"
    if fresh.verdict == "FASTER" and (raced is None or raced.outcome != "baseline"):
        yield (
            f"the race and fresh processes disagree: measure {fresh.other} and the pick again"
            " before you trust this order"
        )
    elif race is not None and fresh.ratio is not None and _apart(race, fresh.ratio, record.margin):
        yield (
            f"the race and fresh processes disagree on {fresh.other}: {amounts.interval(race)} in"
            " the race"
        )
    for gate in next((one.gates for one in record.candidates if one.name == record.pick), ()):
        missed = gate.name == "p99" and fresh.p99_ns is not None
        if missed and fresh.p99_ns is not None and fresh.p99_ns / 1e6 > gate.allowed:
            yield (
                f"in fresh processes the pick misses a gate: p99 at most"
                f" {amounts.milliseconds(fresh.p99_ns)} ms, allowed {gate.allowed:g} ms"
            )


def _apart(one: Ratio, other: Ratio, margin: float) -> bool:
    """Whether two intervals are farther apart than the margin."""
    return one[1] > other[2] * (1 + margin) or other[1] > one[2] * (1 + margin)
