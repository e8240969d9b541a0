"""Plain sentences on where the time goes, each by one rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .parts import REST, Part, merged_part

#: Number of sentences.
_MOST = 3
#: Least share of the time that is worth a sentence.
_LARGE = 0.15
#: A share of the time is out of proportion above this multiple of the share of the operations.
_PROPORTION = 2.0
#: Groups of fewer channels are narrow: kernels of matrix units take at least so many.
_WIDE = 32
#: Below this multiple of the floor there is little to gain.
_NEAR = 1.5
_NAMES = {"stem": "first convolution", "fc": "classifier"}


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        parts: by stage and kind.
        kinds: the same by kind alone.
        ns: time of all layers.
        macs: multiply-accumulates of all layers.
        mergeable: whether the runtime could run the network with merged groups, and does not.
        undisturbed: whether times and floors are those of a quiet machine.
    """

    parts: Sequence[Part]
    kinds: Mapping[str, Part]
    ns: float
    macs: int
    mergeable: bool
    undisturbed: bool


def sentences(
    parts: Sequence[Part], *, mergeable: bool, undisturbed: bool = True
) -> tuple[str, ...]:
    """One to three sentences, the most telling first; fields are named in backticks.

    Args:
        parts: by stage and kind.
        mergeable: whether the runtime could run the network with merged groups, and does not.
        undisturbed: whether times and floors are those of a quiet machine.
    """
    by_kind = defaultdict(list)
    for part in parts:
        by_kind[part.kind].append(part)
    kinds = {kind: merged_part(each) for kind, each in by_kind.items()}
    facts = Facts(
        parts,
        kinds,
        sum(part.ns for part in parts),
        sum(part.macs for part in parts),
        mergeable,
        undisturbed,
    )
    return tuple(text for rule in RULES if (text := rule(facts)))[:_MOST]


def wrong_precision(facts: Facts) -> str:
    """Layers that do not compute in the requested precision."""
    wrong = [part for part in facts.parts if not part.delivered]
    if not wrong:
        return ""
    worst = max(wrong, key=lambda part: part.ns)
    share = sum(part.ns for part in wrong) / facts.ns
    return (
        f"{share:.0%} of the time goes to layers that compute in {' and '.join(worst.actual)},"
        f" although {worst.requested} was requested: first of all {_at(worst)}."
    )


def out_of_proportion(facts: Facts) -> str:
    """The kind of layers that takes far more of the time than of the operations."""
    kind = _odd_kind(facts)
    if kind is None:
        return ""
    part = facts.kinds[kind]
    narrow = part.channels is not None and part.channels[0] < _WIDE
    hint = (
        "; merging groups (`merge_groups` auto) may help"
        if kind.startswith("grouped") and facts.mergeable and narrow
        else ""
    )
    return f"{_shares(facts, kind)}{hint}."


def without_operations(facts: Facts) -> str:
    """Much time in layers without multiply-accumulates."""
    rest = facts.kinds.get(REST)
    if rest is None or rest.ns < _LARGE * facts.ns:
        return ""
    return (
        f"Layers without multiply-accumulates take {rest.ns / facts.ns:.0%} of the time, most of it"
        f" in {' and '.join(rest.ops[:2])}."
    )


def largest(facts: Facts) -> str:
    """The kind of layers that takes the most time, unless `out_of_proportion` has named it."""
    kind = max(facts.kinds, key=lambda kind: facts.kinds[kind].ns)
    if kind in (REST, _odd_kind(facts)):
        return ""
    return f"{_shares(facts, kind)}."


def near_floor(facts: Facts) -> str:
    """Everything is close to the floor, on a quiet machine: on another one, floors are too long."""
    floors = [part.floor_ns for part in facts.parts if part.floor_ns is not None]
    if not facts.undisturbed or facts.ns >= _NEAR * sum(floors):
        return ""
    return (
        f"All layers together take {facts.ns / sum(floors):.1f} times their floor: at this"
        " precision and batch, little can be gained."
    )


#: In the order of what they tell.
RULES: tuple[Callable[[Facts], str], ...] = (
    wrong_precision,
    out_of_proportion,
    largest,
    without_operations,
    near_floor,
)


def _odd_kind(facts: Facts) -> str | None:
    """The slowest kind that is out of proportion; None if no kind is."""
    odd = [
        part
        for kind, part in facts.kinds.items()
        if kind != REST
        and part.ns >= _LARGE * facts.ns
        and part.ns * facts.macs > _PROPORTION * part.macs * facts.ns
    ]
    return max(odd, key=lambda part: part.ns).kind if odd else None


def _shares(facts: Facts, kind: str) -> str:
    part, name = facts.kinds[kind], _NAMES.get(kind)
    subject = f"The {name} takes" if name else f"The {kind} convolutions take"
    return (
        f"{subject} {part.ns / facts.ns:.0%} of the time for {part.macs / facts.macs:.0%} of the"
        f" multiply-accumulates, {part.times_floor:.1f} times {'its' if name else 'their'} floor"
    )


def _at(part: Part) -> str:
    return f"{part.kind} of {part.stage}" if part.kind != part.stage else part.stage
