"""Growth of a series in time, and whether it goes on or was a step."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence

from resnext.artifact.specs import Strict
from resnext.timing.intervals import signed_rank

#: First share of a series that is left out: allocators fill, caches and thread pools settle.
WARM_UP = 0.2
#: Blocks of the rest. Nine have eight steps between them; six is the least with an interval.
BLOCKS = 9


class Growth(Strict):
    """Growth in one minute.

    Attributes:
        per_minute: estimate and its 95 % interval, in the series' unit.
        minutes: length of the stretch that it is from.
    """

    per_minute: tuple[float, float, float]
    minutes: float

    @property
    def total(self) -> tuple[float, float, float]:
        """Growth over the whole stretch, with its interval."""
        estimate, low, high = (value * self.minutes for value in self.per_minute)
        return estimate, low, high


def growth(
    at_s: Sequence[float],
    values: Sequence[float],
    level: Callable[[Sequence[float]], float] = statistics.median,
) -> Growth | None:
    """Growth from block to block, by the signed-rank test.

    A line through all values calls one step a slope, and neighbors in time are not independent of
    each other. Of the steps between successive blocks, one that is large does not move the
    interval, and of a random walk they are independent. The price is a wide interval for series
    that are noisy within a block.

    Args:
        at_s: seconds, increasing.
        values: one for each of them.
        level: of a block: the median, or ``min`` for what goes up until something is collected.

    Returns:
        None if fewer than two values are left for each block.
    """
    skip = int(len(values) * WARM_UP)
    times, rest = at_s[skip:], values[skip:]
    if len(rest) < 2 * BLOCKS:
        return None
    edges = [len(rest) * index // BLOCKS for index in range(BLOCKS + 1)]
    blocks = [slice(start, end) for start, end in itertools.pairwise(edges)]
    levels = [level(rest[block]) for block in blocks]
    middles = [statistics.fmean(times[block]) / 60 for block in blocks]
    interval = signed_rank(
        [
            (levels[index + 1] - levels[index]) / (middles[index + 1] - middles[index])
            for index in range(BLOCKS - 1)
        ]
    )
    if interval is None:
        return None
    return Growth(per_minute=tuple(interval), minutes=(times[-1] - times[0]) / 60)
