"""A cheap set of blocks that must stay float, in few builds. Builds nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

#: Builds an artifact that keeps these blocks float, and says whether it meets its gate.
Meets: TypeAlias = Callable[[tuple[str, ...]], bool]
#: Members that `without_spares` tries to drop, at most.
_MOST_SPARES = 4


def by_worth(damage: Mapping[str, float], price: Mapping[str, float]) -> tuple[str, ...]:
    """The blocks, first what mends most for its price.

    Roundings of different blocks are nearly independent, so their errors add up as squares: what a
    set mends is the sum of its squares, and the greedy order of a knapsack is by square over price.
    A block without damage comes last, whatever its price.

    Args:
        damage: error of the logits if only this block is in low precision.
        price: what it costs to keep the block float; positive.
    """
    return tuple(sorted(damage, key=lambda name: -(damage[name] ** 2) / price[name]))


def shortest_prefix(order: Sequence[str], meets: Meets) -> tuple[str, ...] | None:
    """The shortest beginning of ``order`` that meets the gate; None if only all of it might.

    A single bad block is the usual case, so it is tried first; then the length is halved, at most
    `most_builds` builds in all. ``meets`` is called neither with nothing nor with all of ``order``:
    the first is the artifact that missed, the other a float network.
    """
    low, high = 0, len(order)  # nothing misses; all of it is not low precision any more
    length = 1
    while high - low > 1:
        if meets(tuple(order[:length])):
            high = length
        else:
            low = length
        length = (low + high) // 2
    return tuple(order[:high]) if high < len(order) else None


def most_builds(blocks: int) -> int:
    """How often `shortest_prefix` builds at most."""
    return 0 if blocks < 2 else 1 + (blocks - 2).bit_length()


def without_spares(
    kept: tuple[str, ...], price: Mapping[str, float], meets: Meets, needed: int = 0
) -> tuple[str, ...]:
    """``kept`` without members that are not needed, the dearest tried first; a few builds at most.

    Args:
        kept: meets the gate.
        price: of each.
        meets: builds an artifact, and says whether it does.
        needed: number of last members that are known to be needed.
    """
    spares = kept[: len(kept) - needed]
    for spare in sorted(spares, key=lambda name: -price[name])[:_MOST_SPARES]:
        fewer = tuple(name for name in kept if name != spare)
        if meets(fewer):
            kept = fewer
    return kept
