"""The rounds of a row as a sparkline."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from resnext_bench.stats import Timing

#: Heights, the fastest round first; a full block would touch the row above.
BARS = "▁▂▃▄▅▆▇"
#: A round that does not count.
DISTURBED = "×"
#: Share of the fastest round's median that the full height stands for at least: the noise of a
#: steady row stays low.
FULL_HEIGHT = 0.10


def sparkline(timing: Timing, most: int = 24) -> str:
    """A bar for the median of each undisturbed round, in order of time, and a cross for each
    disturbed one. The lowest bar is the fastest round; the full height is 10 % above it, or the
    slowest round if that is slower.

    Args:
        timing: of the row.
        most: largest number of characters; with more rounds, each stands for several.
    """
    quiet = timing.quiet_ns
    rounds = [
        statistics.median(quiet[index]) if index in quiet else None
        for index in range(len(timing.rounds_ns))
    ]
    medians = _binned(rounds, most)
    known = [median for median in medians if median is not None]
    if not known:
        return DISTURBED * len(medians)
    low = min(known)
    height = max(max(known) - low, FULL_HEIGHT * low) or 1
    return "".join(
        DISTURBED if each is None else BARS[round((each - low) / height * (len(BARS) - 1))]
        for each in medians
    )


def _binned(rounds: Sequence[float | None], most: int) -> list[float | None]:
    """``rounds``, neighbors joined if there are more than ``most``."""
    bins = min(len(rounds), most)
    joined: list[float | None] = []
    for index in range(bins):
        part = rounds[index * len(rounds) // bins : (index + 1) * len(rounds) // bins]
        known = [each for each in part if each is not None]
        joined.append(statistics.median(known) if known else None)
    return joined
