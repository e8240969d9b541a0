"""The result of reading a folder of runs."""

from __future__ import annotations

from resnext_bench.report.grid import printed

from .record import HistoryRecord
from .report import show


class History(HistoryRecord):
    """The runs of a folder over time.

    Attributes:
        format_version: of this record.
        runs: number of run files; one that is there twice counts once.
        window: number of newest runs in which a step counts for the verdict.
        margin: share that counts as no change.
        series: like rows, those of one machine and network together.
        left_out: rows of these runs that are in no series, because they are not valid.
        other: JSON files that are no runs.
        broken: run files that cannot be used, each with the reason.
        unlike: how the runs differ, if no two of them have a row in common; else empty.
    """

    def text(self) -> str:
        """Each series with its course and its steps."""
        return printed(lambda console: show(self, console))

    def html(self) -> str:
        """The history as a page: one file of HTML that needs no network."""
        from .page import history_page

        return history_page(self)
