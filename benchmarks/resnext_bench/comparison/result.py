"""The result of a comparison of two runs."""

from __future__ import annotations

from .record import ComparisonRecord
from .report import markdown, text


class Comparison(ComparisonRecord):
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
        lost: rows that are valid in the base run, and not in the new one: they do not pass.
        skipped: other rows that were not compared, each with the reason.
        unfinished: which of the runs were not finished, or were killed.
    """

    def text(self) -> str:
        """The rows as a table with remarks."""
        return text(self)

    def markdown(self) -> str:
        """The comparison as a Markdown document."""
        return markdown(self)
