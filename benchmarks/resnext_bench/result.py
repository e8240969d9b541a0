"""The result of a run, in Python and as a file."""

from __future__ import annotations

from pathlib import Path

from .page.run_page import run_page
from .record import RunRecord
from .report import markdown, text
from .stored import read_stored

FORMAT_VERSION = 1


class Run(RunRecord):
    """Everything from one call of ``resnext-bench``.

    Attributes:
        format_version: of this file; readers refuse any other.
        created: UTC time, ISO 8601.
        model: variant, or None for a configuration without a name.
        weights: source and digest.
        precision: requested; several are joined by commas.
        duration_s: minimum timed seconds per row.
        rounds: minimum number of undisturbed visits to each case.
        seed: of the test images and of the order of visits.
        threads: CPU threads of every row; None if the run compares several numbers, and in older
            files for each runtime's default.
        thread_reason: why as many: the limit that they are, or ``requested``; empty in older files.
        precision_target: requested, as in `Plan.precision`; None if the number of rounds was fixed.
        complete: False in the file of a run that is not finished, or was killed: the rows that are
            missing had not been judged.
        ended: why measuring ended; None in files from before it was recorded.
        control: one row measured twice; None if the number of rounds was fixed, and in older files.
        reused: cached artifacts, as shown to the user.
        environment: machine and software.
        harness_ns: nanoseconds that timing itself added to a run, measured before the first round;
            None in files from before this was measured.
        unknown: what the comparison with the reference cannot tell, of an ONNX file from elsewhere;
            "" if it was compared with PyTorch.
        command: name and arguments of the command that made it; empty for a run from Python, and in
            files from before it was stored.
        rows: one for each case.
    """

    def table(self, *, explain: bool = False) -> str:
        """The verdict of the run, the rows as a table, and the reasons against rows.

        Args:
            explain: add what columns, intervals and verdicts mean.
        """
        return text(self, explain=explain)

    def markdown(self) -> str:
        """The run as a Markdown document."""
        return markdown(self)

    def html(self) -> str:
        """The run as a page: one file of HTML that needs no network and no script."""
        return run_page(self)


def read_run(path: Path) -> Run:
    """Read a stored run.

    Raises:
        BadInput: missing, not JSON, or not a run of this format version.
    """
    return read_stored(path, Run, "run", FORMAT_VERSION)
