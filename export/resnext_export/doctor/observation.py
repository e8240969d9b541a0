"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnext.findings import Finding

#: ``ok``: it works. ``not here``: this machine does not have it, which is no fault. ``warning``: it
#: works, with a caveat. ``problem``: it is here and cannot work.
Status = Literal["ok", "not here", "warning", "problem"]
#: All, in the order of the summary.
STATUSES: tuple[Status, ...] = ("ok", "not here", "warning", "problem")


@dataclass(frozen=True)
class Observation:
    """One line.

    Attributes:
        status: see `Status`.
        message: what was seen, in one line.
        hint: the line that mends it; "" if there is nothing to mend.
        code: kind of finding, for scripts; "" for ``ok``.
    """

    status: Status
    message: str
    hint: str = ""
    code: str = ""


def ok(message: str) -> Observation:
    """It works."""
    return Observation("ok", message)


def absent(code: str, message: str, hint: str = "") -> Observation:
    """This machine does not have it."""
    return Observation("not here", message, hint, code)


def warning(code: str, message: str, hint: str = "") -> Observation:
    """It works, with a caveat."""
    return Observation("warning", message, hint, code)


def problem(code: str, message: str, hint: str = "") -> Observation:
    """It is here and cannot work."""
    return Observation("problem", message, hint, code)


def observed(finding: Finding, prefix: str = "", *, here: bool = True) -> Observation:
    """The line for a finding; ``here`` False if nothing that is installed is at fault."""
    status: Status = (
        "not here" if not here else "problem" if finding.severity == "refused" else "warning"
    )
    return Observation(status, prefix + finding.message, finding.hint, finding.code)
