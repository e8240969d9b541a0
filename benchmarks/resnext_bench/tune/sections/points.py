"""The candidates of a search as a page shows them: numbered, with a color, and what became of
them.
"""

from __future__ import annotations

from dataclasses import dataclass

from resnext_bench.page.markup import Markup, tag
from resnext_bench.tune.record import CandidateRecord, TuneRecord

#: The class of an outcome, and a sign besides its color.
_SIGNS = {
    "picked": ("valid", "\u2713"),
    "same": ("valid", "="),
    "slower": ("muted", "\u2212"),
    "gate": ("invalid", "!"),
    "refused": ("failed", "\u2715"),
    "failed": ("failed", "\u2715"),
    "not-measured": ("muted", "?"),
    "baseline": ("muted", "\u00b7"),
}


@dataclass(frozen=True)
class Entry:
    """One candidate.

    Attributes:
        number: its place in the search, by which table and charts refer to it.
        candidate: what is known of it.
        series: backend and precision: what has one color.
    """

    number: int
    candidate: CandidateRecord
    series: str

    @property
    def name(self) -> str:
        """For people."""
        return self.candidate.name


def entries(record: TuneRecord) -> list[Entry]:
    """Every candidate of ``record``."""
    return [
        Entry(number, one, f"{one.backend} {one.precision}")
        for number, one in enumerate(record.candidates)
    ]


def series(rows: list[Entry]) -> dict[str, int]:
    """The index of each series, in order of appearance."""
    return {name: index for index, name in enumerate(dict.fromkeys(row.series for row in rows))}


def outcome(one: CandidateRecord) -> Markup:
    """What became of it, with a sign besides the color."""
    kind, sign = _SIGNS[one.outcome]
    return tag("span", f"{one.outcome} {sign}", class_=f"status {kind}")
