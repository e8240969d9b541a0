"""The result of a run, in Python and as a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from resnext.errors import BadInput
from resnext.readers.files import MOST_JSON, read_file
from resnext.readers.strict_json import is_version, parse_json

from .page.run_page import run_page
from .record import RunRecord
from .report import markdown, text

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
    text = read_file(path, MOST_JSON)
    not_a_run = f"{path} is not a stored run (format_version {FORMAT_VERSION})"
    try:
        raw = parse_json(text)
    except ValueError as exc:
        raise BadInput(f"{not_a_run}: {exc}") from exc
    if not isinstance(raw, dict):
        raise BadInput(not_a_run)
    if not is_version(version := raw.get("format_version", 1), FORMAT_VERSION):
        newer = type(version) is int and version > FORMAT_VERSION
        hint = "read it with a newer toolkit" if newer else ""
        raise BadInput(f"{not_a_run}, its format_version is {version!r}", hint=hint)
    try:
        return Run.model_validate_json(text, strict=True)
    except ValidationError as exc:
        detail = exc.errors()[0]
        field = ".".join(map(str, detail["loc"]))
        raise BadInput(f"{not_a_run}: {field} {detail['msg']}") from exc
