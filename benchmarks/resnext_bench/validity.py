"""Is a measured row to be believed? Each reason says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from resnext.parity import Parity
from resnext.session import Delivered

from .stats import LEAST_SAMPLES, derive

#: Interquartile range of the rounds' medians, over their median, above which the machine was not steady.
MOST_ROUND_SPREAD = 0.25
_DTYPES = {"fp32": "float32"}


def reasons_against(
    host_ns: Sequence[Sequence[int]], batch: int, parity: Parity | None, delivered: Delivered, precision: str
) -> tuple[str, ...]:
    """Why a row is not valid; empty for a valid one."""
    found = []
    stats = derive(host_ns, batch)
    if stats.count < LEAST_SAMPLES[50]:
        found.append(f"only {stats.count} samples, a median needs {LEAST_SAMPLES[50]}: give --samples or --duration")
    if stats.min_ns <= 0:
        found.append("a run took no time by the clock: it did nothing, or the clock is broken")
    if stats.round_spread > MOST_ROUND_SPREAD:
        found.append(
            f"the rounds' medians spread by {stats.round_spread:.0%}: the machine was not steady; stop other work "
            "or give a longer --duration"
        )
    if parity is None:
        found.append("its output was not compared")
    elif not parity.passed:
        found.append(f"wrong output: {'; '.join(parity.failures)}")
    wanted = _DTYPES[precision]
    if (share := delivered.share(wanted)) < 1:
        found.append(f"{precision} asked for, but only {share:.0%} of convolutions and products got {wanted}")
    return tuple(found)
