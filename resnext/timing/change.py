"""Better or worse: a ratio of times with its interval, set against a margin."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, TypeAlias

from .intervals import (
    CONFIDENCE,
    Interval,
    drifted,
    rank_sum,
    rank_sum_p,
    signed_rank,
    signed_rank_p,
    student_t,
    student_t_p,
)

#: A change of this share, in either direction, counts as none.
MARGIN = 0.02
#: Minimum number of rounds for a verdict.
LEAST_ROUNDS = 8
#: Minimum number of pairs of processes for a verdict.
LEAST_PROCESSES = 3
#: Minimum number of runs on either side of a step.
LEAST_RUNS = 4
#: More rounds than this are not worth proposing: the ratio is at the margin.
_MOST_ROUNDS = 10_000

Verdict: TypeAlias = Literal["FASTER", "SLOWER", "SAME", "CANNOT TELL"]
WORST_FIRST: tuple[Verdict, ...] = ("SLOWER", "CANNOT TELL", "FASTER", "SAME")


@dataclass(frozen=True)
class Change:
    """How many times as long a candidate takes as its base.

    Attributes:
        verdict: ``FASTER`` or ``SLOWER`` if the interval lies beyond the margin, ``SAME`` if it
            lies inside, else ``CANNOT TELL``.
        ratio: new time over base time, with its 95 % interval; None with too few values.
        p_value: of "the ratio is within the margin".
        count: values that it is from: rounds, or pairs of processes.
        margin: share that counts as no change.
        more: about how many more are needed for a verdict; None if there is one, or if the ratio
            is so near the margin that no reasonable number is enough.
    """

    verdict: Verdict
    ratio: Interval | None
    p_value: float
    count: int
    margin: float
    more: int | None = None
    reason: str = ""


def paired(log_ratios: Sequence[float], margin: float = MARGIN) -> Change:
    """The change by the signed-rank test, from the logarithm of new over base in each round."""
    return _judged(
        signed_rank(log_ratios),
        lambda bound: signed_rank_p(log_ratios, bound),
        len(log_ratios),
        LEAST_ROUNDS,
        margin,
    )


def unpaired(base: Sequence[float], new: Sequence[float], margin: float = MARGIN) -> Change:
    """The change by the rank-sum test, from the logarithms of the rounds of two runs.

    Rounds of a run that drifted are not independent, and their interval is too narrow: there is no
    verdict then (`drifted`).
    """
    change = _judged(
        rank_sum(new, base),
        lambda bound: rank_sum_p(new, base, bound),
        min(len(base), len(new)),
        LEAST_ROUNDS,
        margin,
    )
    runs = [name for name, values in (("base", base), ("new", new)) if drifted(values)]
    if not runs:
        return change
    reason = f"the machine drifted during the {' and the '.join(runs)} run"
    return replace(change, verdict="CANNOT TELL", more=None, reason=reason)


def between_processes(log_ratios: Sequence[float], margin: float = MARGIN) -> Change:
    """The change by Student's t, from the estimate of each pair of processes."""
    return _judged(
        student_t(log_ratios),
        lambda bound: student_t_p(log_ratios, bound),
        len(log_ratios),
        LEAST_PROCESSES,
        margin,
    )


def between_runs(
    base: Sequence[float], new: Sequence[float], p_value: float, margin: float = MARGIN
) -> Change:
    """The change by the rank-sum test, from the logarithm of each run's median.

    Args:
        base: of the runs before a step.
        new: of the runs after it.
        p_value: of "there is no step", from a test that knows how its place was chosen; the
            change's is at least as large.
        margin: share that counts as no change.
    """
    return _judged(
        rank_sum(new, base),
        lambda bound: max(p_value, rank_sum_p(new, base, bound)),
        min(len(base), len(new)),
        LEAST_RUNS,
        margin,
    )


def holm(changes: Sequence[Change]) -> tuple[Change, ...]:
    """``changes`` with Holm's correction: among many rows, one of twenty would be beyond the margin
    by chance.

    Each p-value is multiplied by the number of those that are at least as large, and none is
    smaller than one before it. A row whose corrected p-value is above 5 % is neither ``FASTER``
    nor ``SLOWER``.
    """
    corrected = list(changes)
    tested = [index for index, change in enumerate(changes) if change.ratio is not None]
    p_values = holm_p([changes[index].p_value for index in tested])
    order = sorted(zip(tested, p_values, strict=True), key=lambda pair: changes[pair[0]].p_value)
    for place, (index, p_value) in enumerate(order):
        rivals = len(tested) - place
        corrected[index] = change = replace(changes[index], p_value=p_value)
        if change.verdict in ("FASTER", "SLOWER") and p_value > 1 - CONFIDENCE:
            corrected[index] = replace(
                change,
                verdict="CANNOT TELL",
                more=_more(change, _wider(rivals)),
                reason=f"with {len(tested)} rows, one may be beyond the margin by chance",
            )
    return tuple(corrected)


def holm_p(p_values: Sequence[float]) -> list[float]:
    """``p_values`` with Holm's correction, in their order: each is multiplied by the number of
    those that are at least as large, and none is smaller than one before it.
    """
    corrected, least = list(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = least
    return corrected


def describe(change: Change, base: str = "A", new: str = "B", unit: str = "rounds") -> str:
    """``change`` in a sentence.

    Args:
        change: of ``new`` against ``base``.
        base: its name.
        new: its name.
        unit: what the values of the change are.
    """
    margin = f"the margin of {change.margin * 100:g} %"
    if change.ratio is None:
        are = f"{_counted(change.count, unit)} {'is' if change.count == 1 else 'are'}"
        text = f"{are} too few for an interval"
    else:
        percent, low, high = (100 * (ratio - 1) for ratio in change.ratio)
        difference = f"{abs(percent):.1f} % {'less' if percent < 0 else 'more'} time than"
        text = (
            f"{new} takes {'as long as' if abs(percent) < 0.05 else difference} {base}"
            f" (95 % interval {low:+.1f} to {high:+.1f} %)"
        )
    if change.verdict == "SAME":
        return f"{text}: within {margin}."
    if change.verdict != "CANNOT TELL":
        return f"{text}: beyond {margin}."
    if change.reason:
        text += f"; {change.reason}"
    elif change.ratio is not None:
        text += f"; the interval crosses the edge of {margin}"
    if change.more is not None:
        text += f"; about {_counted(change.more, f'more {unit}')} would tell"
    return f"{text}."


def _counted(number: int, units: str) -> str:
    """``number`` of ``units``, without the plural's s for a single one."""
    return f"{number} {re.sub('s( |$)', ' ', units, count=1).rstrip() if number == 1 else units}"


def _judged(
    interval: Interval | None,
    p_within: Callable[[float], float],
    count: int,
    least: int,
    margin: float,
) -> Change:
    bound = math.log1p(margin)
    if interval is None:
        return Change("CANNOT TELL", None, 1.0, count, margin, max(1, least - count))
    ratio = Interval(*map(math.exp, interval))
    change = Change("CANNOT TELL", ratio, p_within(bound), count, margin)
    verdict: Verdict = "CANNOT TELL"
    if interval.high < -bound:
        verdict = "FASTER"
    elif interval.low > bound:
        verdict = "SLOWER"
    elif -bound <= interval.low and interval.high <= bound:
        verdict = "SAME"
    if count < least:
        more = 1 if verdict != "CANNOT TELL" else _more(change)
        reason = f"a verdict takes at least {least}"
        return replace(change, more=more and max(more, least - count), reason=reason)
    if verdict == "CANNOT TELL":
        return replace(change, more=_more(change))
    return replace(change, verdict=verdict)


def _more(change: Change, wider: float = 1.0) -> int | None:
    """How many more values bring the interval to one side of the nearer edge of the margin: its
    width shrinks with the square root of their number.

    Args:
        change: with an interval.
        wider: factor on the interval, for a higher confidence.
    """
    assert change.ratio is not None
    estimate, low, high = map(math.log, change.ratio)
    reach = max(estimate - low, high - estimate) * wider
    distance = abs(abs(estimate) - math.log1p(change.margin))
    if reach > distance * math.sqrt(_MOST_ROUNDS / change.count):
        return None
    return max(1, math.ceil(change.count * ((reach / distance) ** 2 - 1)))


def _wider(tests: int) -> float:
    """Width of an interval that holds for ``tests`` at once, over that of a single one."""
    normal = NormalDist()
    return normal.inv_cdf(1 - (1 - CONFIDENCE) / 2 / tests) / normal.inv_cdf((1 + CONFIDENCE) / 2)
