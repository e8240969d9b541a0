"""What a candidate has, as people read it."""

from __future__ import annotations

import math

from .record import CandidateRecord, GateRecord, Goal

#: Digits that show a limit as it was given.
_EXACT = 12


def milliseconds(ns: float | None) -> str:
    """A time without its unit; ``-`` if it is unknown."""
    return _number(None if ns is None else ns / 1e6, 3)


def rate(images_per_s: float | None) -> str:
    """Images a second without the unit; ``-`` if they are unknown."""
    return _number(images_per_s, 1)


def megabytes(size_bytes: int | None) -> str:
    """A size without its unit; ``-`` if it is unknown."""
    return _number(None if size_bytes is None else size_bytes / 1e6, 1)


def times(ratio: float) -> str:
    """How many times: three digits after the point below two, where they matter."""
    return _number(ratio, 3 if ratio < 2 else 2 if ratio < 100 else 0)


def interval(ratio: tuple[float, float, float]) -> str:
    """``1.03x (95 % interval 1.01 to 1.05)``."""
    estimate, low, high = map(times, ratio)
    return f"{estimate}x (95 % interval {low} to {high})"


def share(value: float) -> str:
    """``2 %``."""
    return f"{100 * value:.3g} %"


def at_goal(one: CandidateRecord, goal: Goal) -> str:
    """What the search makes as good as it can be, of one candidate, with its unit."""
    if goal == "throughput":
        return f"{rate(one.images_per_s)} images/s"
    return f"{milliseconds(one.p50_ns)} ms for a batch of {one.batch}"


def gate(one: GateRecord) -> str:
    """``agreement 98.7 % (at least 99 %)``."""
    bound = limit(one).removeprefix(f"{one.name} ")
    return f"{one.name} {actual(one)} ({bound})"


def actual(one: GateRecord) -> str:
    """What a candidate has, with digits enough to show that a limit was missed."""
    if one.actual is None or math.isnan(one.actual):
        return "unknown"
    allowed = _at(one, one.allowed, _EXACT)
    few = 4 if one.unit == "share" else 3
    texts = [_at(one, one.actual, digits) for digits in range(few, 16)]
    return next((text for text in texts if one.passed or text != allowed), texts[-1])


def limit(one: GateRecord) -> str:
    """The gate itself: ``agreement at least 99 %``."""
    bound = "at least" if one.at_least else "at most"
    return f"{one.name} {bound} {_at(one, one.allowed, _EXACT)}"


def _at(one: GateRecord, value: float, digits: int) -> str:
    scale, unit = (100, "%") if one.unit == "share" else (1, one.unit)
    value *= scale
    if 1 <= abs(value) < 10**_EXACT:
        digits = max(digits, len(str(int(abs(value)))))  # no exponent
    text = f"{value:.{digits}g}"
    return f"{text} {'point' if (text, unit) == ('1', 'points') else unit}"


def _number(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.2e}"
