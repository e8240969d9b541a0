"""The stored form of a comparison of two runs."""

from __future__ import annotations

from typing import Literal

from resnext.artifact.specs import Strict
from resnext.runtimes.session import Boundary
from resnext.timing.change import Change
from resnext_bench.plan import Case

from .packages import Versions


class RowChange(Strict):
    """A row that is valid in both runs, at one boundary.

    Attributes:
        backend: registry name.
        variant: name of the candidate; empty if the runs have only one.
        batch: images in one run.
        threads: CPU threads, if the runs compare several numbers.
        streams: requests in flight at once.
        precision: requested.
        boundary: what the times enclose.
        base_ns: median of the base run.
        new_ns: median of the new run.
        rounds: undisturbed rounds of both.
        same_file: whether the same artifact ran; None for a live network.
        change: how much longer the new one takes, and the verdict.
    """

    backend: str
    variant: str
    batch: int
    threads: int | None
    streams: int
    precision: str
    boundary: Boundary
    base_ns: float
    new_ns: float
    rounds: tuple[int, int]
    same_file: bool | None
    change: Change

    def __str__(self) -> str:
        case = Case(self.backend, self.batch, self.variant, self.threads, self.streams)
        return f"{case} {self.boundary}"


class LostRow(Strict):
    """A row that is valid in the base run, and not in the new one.

    Attributes:
        name: of the row, with its boundary.
        status: in the new run.
        reason: the first one there; empty if it has none.
    """

    name: str
    status: Literal["invalid", "failed"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: " + ": ".join(
            filter(None, (f"{self.status} in the new run", self.reason))
        )


class ComparisonRecord(Strict):
    """The fields of `resnext_bench.comparison.result.Comparison`, which documents them."""

    format_version: Literal[1] = 1
    base: str
    new: str
    model: str | None
    machine: str
    margin: float
    unlike: tuple[str, ...] = ()
    packages: dict[str, Versions] = {}  # noqa: RUF012  # pydantic copies it
    rows: tuple[RowChange, ...]
    lost: tuple[LostRow, ...] = ()
    skipped: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
