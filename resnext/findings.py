"""Findings: one reason why something does not pass, or one warning, each with a hint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``refused``: it does not work or does not count; ``warning``: it works, with a caveat.
Severity = Literal["refused", "warning"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        code: kind of finding, for example ``unsteady-machine``; stable, so that scripts can match.
        message: the finding, in one line.
        hint: what to do, in one line; "" if unknown. Fields are named in backticks, and the command
            line spells them as flags.
        severity: see `Severity`.
        where: the node, layer or file concerned; "" if it concerns the whole.
    """

    code: str
    message: str
    hint: str = ""
    severity: Severity = "refused"
    where: str = ""

    def __str__(self) -> str:
        """Message and hint in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message
