"""The result of a run, in Python and as a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from resnext.errors import BadInput

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
        duration_s: requested timed seconds per row.
        rounds: visits to each case.
        seed: of the test images and of the order of visits.
        threads: requested; None for each runtime's default.
        reused: cached artifacts, as shown to the user.
        environment: machine and software.
        rows: one for each case.
    """

    def table(self) -> str:
        """The rows as a table, with a legend and the reasons against rows."""
        return text(self)

    def markdown(self) -> str:
        """The run as a Markdown document."""
        return markdown(self)


def read_run(path: Path) -> Run:
    """Read a stored run.

    Raises:
        BadInput: missing, not JSON, or not a run of this format version.
    """
    try:
        return Run.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInput(f"cannot read {path}: {exc.strerror}") from exc
    except (ValidationError, UnicodeDecodeError) as exc:
        detail = (
            exc.errors()[0] if isinstance(exc, ValidationError) else {"loc": (), "msg": str(exc)}
        )
        field = ".".join(map(str, detail["loc"]))
        raise BadInput(
            f"{path} is not a stored run (format_version {FORMAT_VERSION}): {field} {detail['msg']}"
        ) from exc
