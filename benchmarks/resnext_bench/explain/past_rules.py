"""Sentences on what was measured on this machine before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from resnext.precision import DEFAULT
from resnext.timing.change import MARGIN

from .facts import Facts, Timed
from .sentence import STRONGEST, Outlook, Sentence

#: Sentences of one topic on what was found before.
_MOST_SEEN = 3
#: A row and what it is compared with, both of one run.
_Pair: TypeAlias = tuple[Timed, Timed]


def measured(facts: Facts, precision: str) -> Sentence | None:
    """The fastest row of a precision against the fastest of fp32, in the newest run with both."""
    plain = [row for row in facts.timed if not row.merged]
    pair = _pair(
        [row for row in plain if row.precision == precision],
        [row for row in plain if row.precision == DEFAULT],
        facts.batch,
    )
    return None if pair is None else _sentence([pair], "the fastest of fp32")


def merged_measured(facts: Facts) -> Sentence | None:
    """Merged groups against unmerged ones of the same runtime and precision, on every runtime: at
    the batch that was asked for if possible, and then at int8.
    """
    pairs = []
    for kind in dict.fromkeys((row.precision, row.backend) for row in facts.timed):
        rows = [row for row in facts.timed if (row.precision, row.backend) == kind]
        merged = [row for row in rows if row.merged]
        pair = _pair(merged, [row for row in rows if row.merged is False], facts.batch)
        if pair is not None:
            pairs.append(pair)
    if not pairs:
        return None
    first, _ = max(
        pairs,
        key=lambda pair: (pair[0].batch == facts.batch, pair[0].precision == "int8"),
    )
    like = (first.batch, first.precision)
    chosen = [pair for pair in pairs if (pair[0].batch, pair[0].precision) == like]
    return _sentence(chosen, f"unmerged {first.precision}")


def seen(facts: Facts, topic: str) -> tuple[Sentence, ...]:
    """What exports, checks and searches found, at this batch first, then the newest; the same is
    said once.
    """
    about = {each.text: each for each in facts.seen if each.topic == topic}
    newest = sorted(
        about.values(),
        key=lambda each: (each.batch in (None, facts.batch), each.created),
        reverse=True,
    )
    return tuple(
        Sentence(
            text=each.text,
            source=each.source,
            where=", ".join(filter(None, (each.created, each.where))),
            outlook=each.outlook,
        )
        for each in newest[:_MOST_SEEN]
    )


def _pair(ours: Sequence[Timed], base: Sequence[Timed], batch: int) -> _Pair | None:
    """The fastest of each in the newest run that has both, if possible at ``batch``."""
    pairs = []
    for case in dict.fromkeys((row.run, row.batch) for row in ours):
        first = _fastest(row for row in ours if (row.run, row.batch) == case)
        second = _fastest(row for row in base if (row.run, row.batch) == case)
        if first is not None and second is not None:
            pairs.append((first, second))
    return max(pairs, key=lambda pair: (pair[0].batch == batch, pair[0].created), default=None)


def _sentence(pairs: Sequence[_Pair], against: str) -> Sentence:
    """What was measured of each pair; the strongest outlook counts, and none that is in doubt."""
    parts, where, outlooks = [], {}, []
    for first, second in pairs:
        outlook = _outlook(first, second)
        parts.append(
            f"{first.backend} took {_ms(first)} at batch {first.batch}, {against}"
            f" ({second.backend}) {_ms(second)}: {_gain(first, second, outlook)}"
        )
        where[f"{first.created}, {first.run}"] = first.doubt
        if not first.doubt:
            outlooks.append(outlook)
    doubts = "".join(f" The search is in doubt: {doubt}." for doubt in where.values() if doubt)
    return Sentence(
        text=f"{'; '.join(parts)}.{doubts}",
        source="measured",
        where="; ".join(where),
        outlook=min(outlooks, key=STRONGEST.index, default=None),
    )


def _gain(row: Timed, base: Timed, outlook: Outlook) -> str:
    if outlook == "same":
        return "no clear difference"
    ratio = _each_ns(base) / _each_ns(row)
    if row.streams > 1 or base.streams > 1:
        return f"{ratio:.2g} times the throughput"
    if ratio < 1:
        return f"{1 / ratio:.2f} times as long"
    return f"{ratio:.2f} times as fast" if ratio < 2 else f"{ratio:.2g} times as fast"


def _outlook(row: Timed, base: Timed) -> Outlook:
    """Faster or slower only beyond the margin, and beyond both intervals where they are known."""
    if _each_ns(row) * (1 + MARGIN) < _each_ns(base) and _high(row) < _low(base):
        return "faster"
    if _each_ns(row) > _each_ns(base) * (1 + MARGIN) and _low(row) > _high(base):
        return "slower"
    return "same"


def _each_ns(row: Timed) -> float:
    """Nanoseconds from one run to the next, of all streams together."""
    return row.median_ns / row.streams


def _low(row: Timed) -> float:
    return _each_ns(row) if row.low_ns is None else row.low_ns / row.streams


def _high(row: Timed) -> float:
    return _each_ns(row) if row.high_ns is None else row.high_ns / row.streams


def _fastest(rows: Iterable[Timed]) -> Timed | None:
    return min(rows, key=_each_ns, default=None)


def _ms(row: Timed) -> str:
    streams = f" in {row.streams} streams" if row.streams > 1 else ""
    return f"{row.median_ns / 1e6:.3g} ms{streams}"
