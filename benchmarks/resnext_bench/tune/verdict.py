"""The verdict of a search in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from resnext.errors import printable

from . import amounts, fallen
from .record import TuneRecord
from .standing import candidate, doubts, times_baseline

Word: TypeAlias = Literal["PICKED", "IN DOUBT", "SO FAR", "NONE"]
_ENDINGS = {
    "time": "time was up before all were measured",
    "interrupted": "interrupted, and `resume` goes on",
}


@dataclass(frozen=True)
class Verdict:
    """The first line of a report.

    Attributes:
        word: ``PICKED``; ``IN DOUBT`` if fresh processes speak against the pick, or other work
            disturbed most of the race; ``SO FAR`` if the search is not finished, or time was up;
            ``NONE`` if there is no pick.
        sentence: the pick, its speed, how many times the baseline's it is and its gates; or why
            there is none. Fields are in backticks.
    """

    word: Word
    sentence: str

    def __str__(self) -> str:
        return f"{self.word}: {self.sentence}"


def verdict(record: TuneRecord) -> Verdict:
    """What to know first about ``record``."""
    pick = candidate(record, record.pick)
    if pick is None:
        return Verdict("NONE", printable(_nothing(record)))
    doubt = doubts(record)
    parts = [
        f"{pick.name}: {amounts.at_goal(pick, record.goal)}",
        *doubt,
        times_baseline(record),
        ", ".join(map(amounts.gate, pick.gates)),
        ending(record),
    ]
    word: Word = "IN DOUBT" if doubt else "SO FAR" if ending(record) else "PICKED"
    return Verdict(word, printable("; ".join(filter(None, parts))))


def ending(record: TuneRecord) -> str:
    """Why the search is not a whole one; "" if it is."""
    missing = sum(one.outcome == "not-measured" for one in record.candidates)
    if record.ended == "time" and not missing and record.pick is not None:
        return "time was up before the race was over"
    if record.ended in _ENDINGS:
        return _ENDINGS[record.ended]
    if not record.complete:
        return "not finished, and `resume` goes on"
    were = "was" if missing == 1 else "were"
    return (
        f"{missing} of {len(record.candidates)} candidates {were} not measured" if missing else ""
    )


def race(record: TuneRecord) -> str:
    """What the race took."""
    took = f"{record.spent_s:.0f} s"
    if record.budget_s is not None:  # `resume` has all of it again
        took += f", with a budget of {record.budget_s:.0f} s for each start"
    if not record.visits or not record.grid_visits:
        return took
    share = record.visits / record.grid_visits
    of_grid = f" ({amounts.share(share)})" if share <= 1 else ""  # above it with repeated ones
    disturbed = f", {record.disturbed:,} of them disturbed" if record.disturbed else ""
    return (
        f"the race made {record.visits:,} visits{disturbed}; all candidates in all rounds are"
        f" {record.grid_visits:,}{of_grid}; {took}"
    )


def _nothing(record: TuneRecord) -> str:
    tried = [one for one in record.candidates if one.outcome != "baseline"]
    count = f"{len(tried)} candidate{'s' * (len(tried) != 1)}"
    if ending(record):
        return f"no pick of {count}; {ending(record)}"
    gates = ", ".join(map(amounts.limit, record.gates))
    missed = fallen.nearest(record)
    if missed:
        return f"none of {count} meets every gate ({gates}); nearest {missed[0]}"
    if not tried:
        return "there was no candidate"
    return f"none of {count} can be chosen" + (f" ({gates})" if gates else "")
