"""Is a measured row to be believed? Each reason says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from resnext.parity import Parity
from resnext.session import Delivered

from .measure import Samples
from .stats import LEAST_SAMPLES, derive

#: Interquartile range of the rounds' medians, over their median, above which the machine was not steady.
MOST_ROUND_SPREAD = 0.25
_DTYPES = {"fp32": "float32", "fp16": "float16"}


#: Share of the host's time around device-timed runs that their times must add up to. Launch-bound work leaves gaps.
LEAST_ACCOUNTED, MOST_ACCOUNTED = 0.3, 1.05


def reasons_against(
    taken: Samples, batch: int, parity: Parity | None, delivered: Delivered, precision: str
) -> tuple[str, ...]:
    """Why a row is not valid; empty for a valid one."""
    found = _unsteady("host", taken.host_ns, batch)
    if taken.device_ns:
        found += _unsteady(str(taken.device_boundary), taken.device_ns, batch)
        accounted = sum(map(sum, taken.device_ns)) / max(sum(taken.device_wall_ns), 1)
        if not LEAST_ACCOUNTED <= accounted <= MOST_ACCOUNTED:
            found.append(
                f"the device times add up to {accounted:.0%} of the time around them: "
                "the events are not around the work"
            )
    if parity is None:
        found.append("its output was not compared")
    elif not parity.passed:
        found.append(f"wrong output: {'; '.join(parity.failures)}")
    wanted = _DTYPES[precision]
    if (share := delivered.share(wanted)) < 1:
        found.append(f"{precision} asked for, but only {share:.0%} of convolutions and products got {wanted}")
    return tuple(found)


def _unsteady(boundary: str, rounds_ns: Sequence[Sequence[int]], batch: int) -> list[str]:
    found = []
    stats = derive(rounds_ns, batch)
    if stats.count < LEAST_SAMPLES[50]:
        found.append(
            f"only {stats.count} {boundary} samples, a median needs {LEAST_SAMPLES[50]}: give --samples or --duration"
        )
    if stats.min_ns <= 0:
        found.append(f"a {boundary} run took no time by the clock: it did nothing, or the clock is broken")
    if stats.round_spread > MOST_ROUND_SPREAD:
        found.append(
            f"the medians of the {boundary} rounds spread by {stats.round_spread:.0%}: the machine was not steady; "
            "stop other work or give a longer --duration"
        )
    return found
