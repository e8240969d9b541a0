"""The result of a comparison of two runs, in Python and as a file."""

from __future__ import annotations

from typing import Literal

from resnext.artifact.specs import Strict
from resnext.runtimes.session import Boundary
from resnext.timing.change import Change

from .report import markdown, text


class RowChange(Strict):
    """A row that is valid in both runs, at one boundary.

    Attributes:
        backend: registry name.
        batch: images in one run.
        variant: name of the candidate; empty if the runs have only one.
        precision: requested.
        boundary: what the times enclose.
        base_ns: median of the base run.
        new_ns: median of the new run.
        rounds: undisturbed rounds of both.
        same_file: whether the same artifact ran; None for a live network.
        change: how much longer the new one takes, and the verdict.
    """

    backend: str
    batch: int
    variant: str
    precision: str | None
    boundary: Boundary
    base_ns: float
    new_ns: float
    rounds: tuple[int, int]
    same_file: bool | None
    change: Change

    def __str__(self) -> str:
        name = " ".join(filter(None, (self.backend, self.variant)))
        return f"{name} batch {self.batch} {self.boundary}"


class Comparison(Strict):
    """Everything from one call of ``resnext-bench compare``.

    Attributes:
        format_version: of this file.
        base: when the base run was made, UTC.
        new: when the new one was.
        model: variant of the base run, or None for a configuration without a name.
        machine: of the base run, in one line.
        margin: share that counts as no change.
        unlike: what differs between the runs, and was allowed to.
        packages: versions that differ: of the base run and of the new one; None for absent.
        rows: compared ones; Holm's correction holds over all of them.
        skipped: rows that were not compared, each with the reason.
    """

    format_version: Literal[1] = 1
    base: str
    new: str
    model: str | None
    machine: str
    margin: float
    unlike: tuple[str, ...] = ()
    packages: dict[str, tuple[str | None, str | None]] = {}  # noqa: RUF012  # pydantic copies it
    rows: tuple[RowChange, ...]
    skipped: tuple[str, ...] = ()

    def text(self) -> str:
        """The rows as a table with remarks."""
        return text(self)

    def markdown(self) -> str:
        """The comparison as a Markdown document."""
        return markdown(self)
