"""A finding: one reason to say no, or one thing to know, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``refused``: it does not work or does not count; ``warning``: it does, and this should be known.
Severity = Literal["refused", "warning"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        code: what kind it is, for example ``unsteady-machine``; stable, so that scripts can match.
        message: what was found, in one line.
        hint: what to do, in one line; "" if nothing is known. Fields are named in backticks, and
            the command line spells them as flags.
        severity: see `Severity`.
        where: the node, layer or file that it is about; "" for the whole.
    """

    code: str
    message: str
    hint: str = ""
    severity: Severity = "refused"
    where: str = ""

    def __str__(self) -> str:
        """Message and hint in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message
