"""Why candidates fell: those with the same reason in one line, and the nearest misses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import amounts
from .record import CandidateRecord, GateRecord, TuneRecord
from .standing import early_ratio

#: In this order, and called so.
_WORDS = {
    "same": "same",
    "slower": "slower",
    "gate": "missed a gate",
    "refused": "refused",
    "failed": "failed",
    "not-measured": "not measured",
}
#: Nearest misses that are shown.
_MOST = 3


def reasons(record: TuneRecord) -> list[str]:
    """``7 fp8: refused: ...``: a line for each reason, those of one outcome together."""
    lines = []
    for outcome, word in _WORDS.items():
        alike: dict[tuple[str, str], list[CandidateRecord]] = {}
        for one in record.candidates:
            if one.outcome == outcome:
                alike.setdefault(_key(one), []).append(one)
        for (_, hint), group in alike.items():
            why = f"{label(group)}: {word}{_why(record, group)}"
            lines.append("; ".join(filter(None, (why, hint))))
    return lines


def heading(record: TuneRecord) -> str:
    """What stands above `reasons`."""
    return "Why they fell" if record.pick is None else "Why the others fell"


def label(group: Sequence[CandidateRecord]) -> str:
    """The name of one, or how many there are with what they share."""
    if len(group) == 1:
        return group[0].name
    shared: list[str] = [
        values.pop()
        for values in ({one.backend for one in group}, {str(one.precision) for one in group})
        if len(values) == 1
    ]
    return f"{len(group)} {' '.join(shared) or 'candidates'}"


def nearest(record: TuneRecord) -> list[str]:
    """The candidates that missed gates by least, the nearest first, with what they missed."""
    missed = [one for one in record.candidates if one.outcome == "gate" and _missed(one)]
    return [
        f"{one.name}: {', '.join(map(amounts.gate, _missed(one)))}"
        for one in sorted(missed, key=lambda one: (len(_missed(one)), _shortfall(one)))[:_MOST]
    ]


def _key(one: CandidateRecord) -> tuple[str, str]:
    """What those of one line share."""
    if one.outcome == "slower":
        return "", ""
    if one.outcome == "gate" and _missed(one):
        return ", ".join(gate.name for gate in _missed(one)), one.hint
    return one.reason, one.hint


def _why(record: TuneRecord, group: Sequence[CandidateRecord]) -> str:
    if group[0].outcome == "slower" and len(group) > 1:
        return _ratios(record, group)
    missed = _missed(group[0])
    if group[0].outcome == "gate" and missed:
        if len(group) == 1:
            return f": {', '.join(map(amounts.gate, missed))}"
        best = min(group, key=_shortfall)
        return f": nearest {', '.join(map(amounts.gate, _missed(best)))}"
    return f": {group[0].reason}" if group[0].reason else ""


def _ratios(record: TuneRecord, group: Sequence[CandidateRecord]) -> str:
    """How much slower those are that the race dropped, as far as that is known."""
    ratios = [one.ratio[0] for one in group if one.ratio is not None]
    parts = [_range(ratios)] if ratios else []
    early = [one for one in group if one.ratio is None]
    if early:
        known = [ratio for one in early if (ratio := early_ratio(record, one)) is not None]
        parts.append(f"{len(early)} before an interval was known")
        parts[-1] += f", at {_range(known)}" if known else ""
    return f": {'; '.join(parts)}"


def _range(ratios: Sequence[float]) -> str:
    """``1.13x to 1.38x the pick's time``."""
    ends = dict.fromkeys(amounts.times(end) for end in (min(ratios), max(ratios)))
    return f"{'x to '.join(ends)}x the pick's time"


def _missed(one: CandidateRecord) -> list[GateRecord]:
    return [gate for gate in one.gates if not gate.passed]


def _shortfall(one: CandidateRecord) -> float:
    """The largest miss, as a share of what its gate allows."""
    return max(map(_miss, _missed(one)), default=0.0)


def _miss(gate: GateRecord) -> float:
    if gate.actual is None or not math.isfinite(gate.actual):
        return math.inf
    room = 1 - gate.allowed if gate.at_least and gate.unit == "share" else gate.allowed
    return abs(gate.actual - gate.allowed) / (abs(room) or 1.0)
