"""A worker process as its parent sees it: opened, asked, and ended, whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnext.errors import ResnextError
from resnext_bench.child import OPENING_S, Child

from .protocol import VERSION, Hello, Job, Logits, Opened, Request, Visit

_MODULE = "resnext_bench.ab.worker"
#: How long a worker may take to import the toolkit, seconds.
STARTING_S = 120.0
#: How long a visit may take beyond twenty times what is expected, seconds.
VISIT_S = 60.0
_SLOWER = 20


class Worker(Child):
    """One arm's process.

    Args:
        arm: its name in messages.
        python: interpreter of another environment; None for this one.

    Raises:
        BadInput: there is no such interpreter.
        MissingRequirement: its environment has no toolkit, or one without this worker.
    """

    def __init__(self, arm: str, python: Path | None = None) -> None:
        super().__init__(arm, _MODULE, python)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def open(self, job: Job) -> Opened:
        """Open and warm up the session.

        Raises:
            ResnextError: what the worker raised, or that it died, hung or said something else. So
                do the other methods.
        """
        self.send(job)
        return self.receive(Opened, OPENING_S)

    def visit(self, iterations: int, expected_s: float) -> Visit:
        """Time ``iterations`` runs, which take about ``expected_s``."""
        self.send(Request(what="visit", iterations=iterations))
        return self.receive(Visit, VISIT_S + _SLOWER * expected_s)

    def logits(self, expected_s: float) -> NDArray[Any]:
        """Logits of the last timed run, and of the images after it."""
        self.send(Request(what="logits"))
        try:
            return self.receive(Logits, VISIT_S + _SLOWER * expected_s).array()
        except (ValueError, TypeError) as exc:
            if isinstance(exc, ResnextError):
                raise
            raise self.foreign() from exc

    def _greet(self) -> None:
        hello = self.receive(Hello, STARTING_S)
        if hello.version != VERSION:
            raise self.other_toolkit("another version of the toolkit")
