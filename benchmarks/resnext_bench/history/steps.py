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
#: Distances that are summed at once.
_TOGETHER = 1 << 16


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
        splits = [_split(each[None], least) for each in distances]
        best = max(range(len(splits)), key=lambda index: splits[index][0].item())
        (energy,), (first,) = splits[best]
        p_value = _p_value(distances, float(energy), least, permutations, random)
        if p_value is None:
            break
        steps.append(Step(segments[best][0] + int(first), p_value))
    return sorted(steps)


def _distances(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(np.subtract.outer(values, values))


def _split(
    distances: NDArray[np.float64], least: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The largest scaled energy distance between the first values and those that follow, up to any
    place: behind a step there may be another one. Also how many values come first.

    Args:
        distances: between all values, in several orders: orders x values x values.
        least: minimum number of values on either side.

    Returns:
        Both for each order.
    """
    orders, count, _ = distances.shape
    sums = np.zeros((orders, count + 1, count + 1))
    distances.cumsum(axis=1).cumsum(axis=2, out=sums[:, 1:, 1:])
    first, rest = np.triu_indices(count - 2 * least + 1)
    first, rest = least + first, least + rest - first
    both = sums[:, first, first + rest]
    own, whole = sums[:, first, first], sums[:, first + rest, first + rest]
    energy = (
        2 * (both - own) / (first * rest)
        - own / (first * (first - 1))
        - (whole - 2 * both + own) / (rest * (rest - 1))
    ) * (first * rest / (first + rest))
    best = energy.argmax(axis=1)
    return energy[np.arange(orders), best], first[best]


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
    energy -= 1e-9 * abs(energy)  # a sum in another order may differ in its last digits
    at_least, most = 1, (1 - CONFIDENCE) * (permutations + 1) + 1e-9
    together = max(1, _TOGETHER // max(each.size for each in distances))
    for done in range(0, permutations, together):
        number = min(together, permutations - done)
        largest = np.max(
            [_split(_shuffled(each, number, random), least)[0] for each in distances], 0
        )
        at_least += int((largest >= energy).sum())
        if at_least > most:
            return None
    return at_least / (permutations + 1)


def _shuffled(
    distances: NDArray[np.float64], number: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """The distances between the same values in ``number`` random orders."""
    orders = random.permuted(np.tile(np.arange(len(distances)), (number, 1)), axis=1)
    shuffled: NDArray[np.float64] = distances[orders[:, :, None], orders[:, None, :]]
    return shuffled
