"""The error tree. Each class owns the exit code that a command ends with.

    ResnextError                    1   (never raised itself)
    ├── GateFailed                  1   a check failed: parity, a regression, delivered precision
    ├── UsageError                  2   the call itself is wrong
    │   └── UnknownName             2   a model, backend or format that is not in its registry
    ├── MissingRequirement          3   the environment lacks a GPU, package, driver or permission
    │   └── SilentFallback          3   a runtime did not use the requested device or provider
    ├── BadInput                    4   a file or value that cannot be used
    │   ├── BadWeights              4   a checkpoint that does not fit, or is not safe to read
    │   ├── BadArtifact             4   an artifact that is broken, altered or of an unknown format
    │   └── EngineRefused           4   a model that an engine builder does not parse or build
    │       └── NoKernel            4   no kernel: another form of the graph may build
    └── SessionFailed               4   a runtime refused or failed on an artifact or input
        └── NeverReturned           4   a run that did not return in time: its row fails

A message is one line: the actual value and the allowed ones. The hint, if there is one, says what
to do. Both name fields in backticks (`` `precision` ``), as Python callers spell them; the command
line turns them into flags. Errors of other libraries are translated once, where the library is
called, with ``raise X from exc``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ResnextError(Exception):
    """Root of every error that this toolkit raises deliberately.

    Args:
        message: the actual value, and the allowed ones.
        hint: what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}; {hint}" if hint else message)


class GateFailed(ResnextError):
    """A requested check failed."""


class UsageError(ResnextError, ValueError):
    """The call itself is wrong, whatever the environment or the files."""

    exit_code = 2


class UnknownName(UsageError):
    """An unknown name; the message lists the known ones and suggests the nearest.

    Args:
        kind: kind of the name, for example ``"model"``.
        name: the unknown name.
        known: every name that would have been accepted.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        starts = [known_name for known_name in self.known if name and known_name.startswith(name)]
        # Half of the letters in common is chance: 'foo' and 'loose'.
        near = starts[:1] or difflib.get_close_matches(name, self.known, n=1, cutoff=0.51)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"unknown {kind} {name!r}{hint} Known: {', '.join(self.known)}")


class MissingRequirement(ResnextError, RuntimeError):
    """The environment lacks something; the message says what to install or do."""

    exit_code = 3


class SilentFallback(MissingRequirement):
    """A runtime accepted a request and then used something else."""


class BadInput(ResnextError, ValueError):
    """A file or value that cannot be used."""

    exit_code = 4


class BadWeights(BadInput):
    """A checkpoint that does not fit its configuration, or is not safe to read."""


class BadArtifact(BadInput):
    """An artifact whose bytes, manifest or format are wrong."""


class EngineRefused(BadInput):
    """A model that an engine builder does not parse or build.

    Args:
        message: the reason, in the library's words.
        nodes: names of the nodes that the library blames, if it says.
        hint: what to do about it.
    """

    def __init__(self, message: str, nodes: tuple[str, ...] = (), *, hint: str = "") -> None:
        self.nodes = nodes
        super().__init__(message, hint=hint)


class NoKernel(EngineRefused):
    """A layer has no kernel for its types; an equivalent graph may have one."""


class SessionFailed(ResnextError, RuntimeError):
    """A runtime refused an artifact or failed while running it."""

    exit_code = 4


class NeverReturned(SessionFailed):
    """A run did not return in time; its session must not run anything again."""


def first_line(error: BaseException | str) -> str:
    """The first line of a foreign error, or its class if it has no message.

    Backticks become quotes: in a message of this toolkit they mark fields.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace("`", "'")


def printable(text: str) -> str:
    """``text`` with control characters escaped: names may come from untrusted files."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
