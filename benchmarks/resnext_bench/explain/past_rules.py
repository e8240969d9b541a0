"""Sentences on what was measured on this machine before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resnext.precision import DEFAULT
from resnext.timing.change import MARGIN

from .facts import Facts, Timed
from .sentence import Outlook, Sentence

#: Sentences of one topic on what was found before.
_MOST_SEEN = 3


def measured(facts: Facts, precision: str) -> Sentence | None:
    """The fastest row of a precision against the fastest of fp32, in the newest run with both."""
    plain = [row for row in facts.timed if not row.merged]
    return _compared(
        [row for row in plain if row.precision == precision],
        [row for row in plain if row.precision == DEFAULT],
        "the fastest of fp32",
        facts.batch,
    )


def merged_measured(facts: Facts) -> Sentence | None:
    """Merged groups against unmerged ones of the same precision and runtime; int8 comes first."""
    kinds = dict.fromkeys((row.precision, row.backend) for row in facts.timed)
    for kind in sorted(kinds, key=lambda kind: kind[0] != "int8"):
        rows = [row for row in facts.timed if (row.precision, row.backend) == kind]
        found = _compared(
            [row for row in rows if row.merged],
            [row for row in rows if row.merged is False],
            f"unmerged {kind[0]}",
            facts.batch,
        )
        if found is not None:
            return found
    return None


def seen(facts: Facts, topic: str) -> tuple[Sentence, ...]:
    """What exports, checks and searches found, the newest first; the same is said once."""
    about = {each.text: each for each in facts.seen if each.topic == topic}
    newest = sorted(about.values(), key=lambda each: each.created, reverse=True)[:_MOST_SEEN]
    return tuple(
        Sentence(
            text=each.text,
            source="measured",
            where=f"{each.created}, {each.where}",
            outlook=each.outlook,
        )
        for each in newest
    )


def _compared(
    ours: Sequence[Timed], base: Sequence[Timed], against: str, batch: int
) -> Sentence | None:
    """The fastest of each in the newest run that has both, if possible at ``batch``."""
    pairs = []
    for case in dict.fromkeys((row.run, row.batch) for row in ours):
        first = _fastest(row for row in ours if (row.run, row.batch) == case)
        second = _fastest(row for row in base if (row.run, row.batch) == case)
        if first is not None and second is not None:
            pairs.append((first, second))
    if not pairs:
        return None
    first, second = max(pairs, key=lambda pair: (pair[0].batch == batch, pair[0].created))
    return Sentence(
        text=(
            f"{first.backend} took {_ms(first)} at batch {first.batch}, {against}"
            f" ({second.backend}) {_ms(second)}: {second.median_ns / first.median_ns:.2g} times as"
            " fast."
        ),
        source="measured",
        where=f"{first.created}, {first.run}",
        outlook=_outlook(first, second),
    )


def _outlook(row: Timed, base: Timed) -> Outlook:
    """Faster or slower only beyond the margin, and beyond both intervals where they are known."""
    if row.median_ns * (1 + MARGIN) < base.median_ns and _high(row) < _low(base):
        return "faster"
    if row.median_ns > base.median_ns * (1 + MARGIN) and _low(row) > _high(base):
        return "slower"
    return "same"


def _low(row: Timed) -> float:
    return row.median_ns if row.low_ns is None else row.low_ns


def _high(row: Timed) -> float:
    return row.median_ns if row.high_ns is None else row.high_ns


def _fastest(rows: Iterable[Timed]) -> Timed | None:
    return min(rows, key=lambda row: row.median_ns, default=None)


def _ms(row: Timed) -> str:
    return f"{row.median_ns / 1e6:.3g} ms"
