"""The rows of a run as a page shows them: numbered and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnext_bench.plan import in_flight
from resnext_bench.record import Row, RunRecord
from resnext_bench.stats import Timing

from .markup import Markup, join, tag


@dataclass(frozen=True)
class Entry:
    """One row.

    Attributes:
        number: its place in the run, by which table and charts refer to it.
        row: what was measured.
        series: backend, candidate, threads and streams: what rows of other batch sizes share.
    """

    number: int
    row: Row
    series: str

    @property
    def name(self) -> str:
        """With the batch size."""
        return f"{self.series} batch {self.row.batch}"

    @property
    def timing(self) -> Timing:
        """At the boundary that the row is judged by; a failed row has none."""
        return self.row.timings[-1]

    @property
    def ms(self) -> float:
        """Median of a run, milliseconds."""
        return self.timing.stats.median_ns / 1e6

    @property
    def images_per_s(self) -> float:
        """Throughput."""
        return self.timing.stats.images_per_s


def entries(run: RunRecord) -> list[Entry]:
    """Every row of ``run``."""
    found = []
    for number, row in enumerate(run.rows):
        flight = in_flight(row.threads if run.threads is None else None, row.streams)
        series = " ".join(filter(None, (row.backend, row.variant, flight)))
        found.append(Entry(number, row, series))
    return found


def measured(run: RunRecord) -> list[Entry]:
    """The rows that have times."""
    return [entry for entry in entries(run) if entry.row.timings]


def valid(run: RunRecord) -> list[Entry]:
    """The rows whose times count."""
    return [entry for entry in measured(run) if entry.row.status == "valid"]


def series(rows: Sequence[Entry]) -> dict[str, int]:
    """The index of each series, in order of appearance."""
    return {name: index for index, name in enumerate(dict.fromkeys(row.series for row in rows))}


def prose(text: str) -> Markup:
    """A message, with the fields that it names in backticks as code."""
    parts = text.split("`")
    return join(*(tag("code", part) if index % 2 else part for index, part in enumerate(parts)))


def status(word: str) -> Markup:
    """VALID, INVALID or FAILED, with a sign besides the color."""
    sign = {"valid": "\u2713", "invalid": "!", "failed": "\u2715"}[word]
    return tag("span", f"{word.upper()} {sign}", class_=f"status {word}")
