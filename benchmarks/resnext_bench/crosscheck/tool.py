"""A peer's tool: how it is called, and how its output is read."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnext.errors import SessionFailed

from .setup import Hint, Setup, Visit


@dataclass(frozen=True)
class Tool:
    """One peer.

    Attributes:
        name: as in ``--tool``.
        executable: name of its program; None for a loop that this package brings along.
        backend: our runtime on the other side.
        kinds: kinds of artifacts that it loads.
        hints: what it can measure.
        boundary: our call that encloses the same work: ``run``, with checks and new arrays, or
            ``enqueue``, over bound inputs; ``device``: between CUDA events.
        includes: what the times of both sides are.
        command: its command line.
        read: its output, and what it left in the folder, as a visit.
        told: facts of `Setup.facts` that it always reports.
        install: where it comes from.
    """

    name: str
    executable: str | None
    backend: str
    kinds: tuple[str, ...]
    hints: tuple[Hint, ...]
    boundary: Literal["run", "enqueue", "device"]
    includes: str
    command: Callable[[str, Setup], list[str]]
    read: Callable[[str, Setup], Visit]
    told: tuple[str, ...]
    install: str

    def program(self) -> str | None:
        """Path of the program, beside this Python's or on PATH; None if there is none."""
        if self.executable is None:
            return sys.executable
        beside = os.fspath(Path(sys.executable).parent)
        return shutil.which(self.executable, path=beside) or shutil.which(self.executable)


def one(pattern: str, output: str, what: str) -> str:
    """The last match of ``pattern``'s group in the lines of ``output``.

    Raises:
        SessionFailed: there is none; names ``what`` is missing.
    """
    matches = re.findall(pattern, output, re.MULTILINE)
    if not matches:
        raise SessionFailed(f"its output has no {what}")
    return str(matches[-1])


def number(pattern: str, output: str, what: str) -> float:
    """`one` as a positive number.

    Raises:
        SessionFailed: there is none.
    """
    text = one(pattern, output, what)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SessionFailed(f"its output has no {what}, but {text!r}")
    return value
