"""Change points of a series: e-divisive with a permutation test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from resnext.timing.change import LEAST_RUNS
from resnext.timing.intervals import CONFIDENCE

#: Minimum number of permutations; the smallest p-value is one over one more.
PERMUTATIONS = 999


@dataclass(frozen=True, order=True)
class Step:
    """A change point.

    Attributes:
        at: index of the first value after it.
        p_value: of "the values around it are in random order".
    """

    at: int
    p_value: float


def find_steps(
    values: Sequence[float],
    *,
    least: int = LEAST_RUNS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[Step]:
    """The change points of ``values``, in order.

    E-divisive (Matteson and James 2014, arXiv:1306.4933): the split with the largest energy
    distance between both sides is a step if at most 5 % of random orders within the present
    segments have one as large; then the segments are split further.

    Args:
        values: one for each run, in order of time; any unit, for example logarithms of medians.
        least: minimum number of values on either side of a step.
        permutations: random orders for each test.
        seed: of the random orders.
    """
    array = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    steps: list[Step] = []
    while True:
        bounds = [0, *sorted(step.at for step in steps), len(array)]
        segments = [(low, high) for low, high in pairwise(bounds) if high - low >= 2 * least]
        if not segments:
            break
        distances = [_distances(array[low:high]) for low, high in segments]
        splits = [_split(each, least) for each in distances]
        best = max(range(len(splits)), key=lambda index: splits[index][0])
        p_value = _p_value(distances, splits[best][0], least, permutations, random)
        if p_value is None:
            break
        steps.append(Step(segments[best][0] + splits[best][1], p_value))
    return sorted(steps)


def _distances(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(np.subtract.outer(values, values))


def _split(distances: NDArray[np.float64], least: int) -> tuple[float, int]:
    """The largest scaled energy distance between the first values and the rest, and how many
    values come first.

    Args:
        distances: between all values, in order.
        least: minimum number of values on either side.
    """
    count = len(distances)
    first = np.arange(least, count - least + 1)
    rest = count - first
    earlier, later = np.tril(distances).sum(axis=1), np.triu(distances).sum(axis=1)
    within_first = np.cumsum(earlier)[first - 1]
    within_rest = np.cumsum(later[::-1])[rest - 1]
    between = earlier.sum() - within_first - within_rest
    energy = (
        2 * between / (first * rest)
        - 2 * within_first / (first * (first - 1))
        - 2 * within_rest / (rest * (rest - 1))
    ) * (first * rest / count)
    best = int(np.argmax(energy))
    return float(energy[best]), int(first[best])


def _p_value(
    distances: Sequence[NDArray[np.float64]],
    energy: float,
    least: int,
    permutations: int,
    random: np.random.Generator,
) -> float | None:
    """Share of random orders with a split of at least ``energy``, the order at hand included.

    Returns:
        None as soon as it is certain to be above 5 %.
    """
    # Rounding must not make an order with the same splits a smaller one.
    energy -= 1e-9 * abs(energy)
    at_least, most = 1, (1 - CONFIDENCE) * (permutations + 1) + 1e-9
    for _ in range(permutations):
        orders = (random.permutation(len(each)) for each in distances)
        found = (
            _split(each[np.ix_(order, order)], least)[0]
            for each, order in zip(distances, orders, strict=True)
        )
        at_least += max(found) >= energy
        if at_least > most:
            return None
    return at_least / (permutations + 1)
