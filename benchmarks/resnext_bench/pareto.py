"""The points that no other one beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

#: Costs of a point, the same ones for all: less is better. None is unknown.
Costs: TypeAlias = Sequence[float | None]


def pareto_front(points: Sequence[Costs]) -> list[bool]:
    """For each point, whether no other one beats it: is nowhere worse, and somewhere better.

    An unknown cost, or NaN, is worse than every known one, so that it never helps to beat another.
    Equal points are all on the front, or all off it.

    Args:
        points: their costs, as many for each.
    """
    known = [tuple(map(_cost, costs)) for costs in points]
    return [not any(_beats(other, one) for other in known) for one in known]


def _cost(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(ours <= theirs for ours, theirs in zip(one, other, strict=True))
