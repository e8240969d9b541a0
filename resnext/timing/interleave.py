"""Turns: every candidate is visited once in each round, so that drift of the machine (clocks,
neighbors, heat) affects all alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turn(candidates: Sequence[T], _index: int) -> Sequence[T]:
    """In the order of ``candidates``."""
    return candidates


def there_and_back(candidates: Sequence[T], _index: int) -> Sequence[T]:
    """Each twice, the second time in reverse: a steady drift cancels in the sum of the two."""
    return (*candidates, *reversed(candidates))


def shuffled(seed: int) -> Callable[[Sequence[T], int], Sequence[T]]:
    """A random order for each round; the same ``seed`` gives the same orders."""

    def order(candidates: Sequence[T], index: int) -> Sequence[T]:
        permutation = list(candidates)
        random.Random(f"{seed}/{index}").shuffle(permutation)
        return tuple(permutation)

    return order


def turns(
    candidates: Sequence[T],
    rounds: int,
    order: Callable[[Sequence[T], int], Sequence[T]] = in_turn,
) -> Iterator[tuple[int, T]]:
    """Index of the round and candidate of every visit.

    Args:
        candidates: what to visit.
        rounds: number of rounds.
        order: gives the visits of a round, from the candidates and the round's index.
    """
    for index in range(rounds):
        for candidate in order(candidates, index):
            yield index, candidate
