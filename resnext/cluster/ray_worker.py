"""A worker of `RayCrew`, in its actor. Ray makes an actor of this class."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnext.errors import MissingRequirement
from resnext.version import __version__

from .worker import Failure, Work, failure_of, heard_by, make


class RayWorker:
    """Makes its worker when it is told to, and does units in order.

    Args:
        whole: it has the whole machine, and is to measure as a process beside Ray would.
    """

    def __init__(self, whole: bool = False) -> None:
        self._work: Work | None = None
        self._beats, self._line = 0, ""
        heard_by(self._heard)
        if whole and (handicap := undo_handicaps()):
            self._heard(handicap)

    def hello(
        self, version: str, factory: str, pickled_args: bytes, *contents: Mapping[str, bytes] | None
    ) -> Failure | None:
        """Make the worker.

        Args:
            version: of the toolkit that asks.
            factory: as in `RayCrew`.
            pickled_args: of the factory; parcels among them have arrived when it is called.
            *contents: of each parcel, in order.

        Returns:
            Why there is none, or None.
        """
        try:
            check_version(version)
            self._work = make(factory, pickle.loads(pickled_args), contents)
        except Exception as exc:
            return failure_of(exc)
        return None

    def do(self, payload: Any) -> tuple[Any, Failure | None]:
        """Do a unit."""
        assert self._work is not None
        try:
            return self._work(payload), None
        except Exception as exc:
            return None, failure_of(exc)

    def pulse(self) -> tuple[int, str]:
        """How often the work said that it goes on, and its last line; asked beside the work."""
        return self._beats, self._line

    def _heard(self, line: str) -> None:
        self._beats, self._line = self._beats + 1, line


def undo_handicaps() -> str:
    """Take back what Ray does to its processes so that many share a machine: it limits OpenMP to
    the CPUs that it was told of (one, if it was started by ``ray up``), and lowers the priority.

    Returns:
        What cannot be taken back, in one line; "" for nothing.
    """
    os.environ.pop("OMP_NUM_THREADS", None)
    lowered, usual = (os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, os.getppid()))
    if lowered <= usual:
        return ""
    try:
        # A priority is a thread's, and what it starts inherits it.
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), usual)
    except OSError:
        return (
            f"runs at niceness {lowered}: whatever else wants the processors goes first; start"
            " Ray there with RAY_worker_niceness=0"
        )
    return ""


def check_version(version: str) -> None:
    """Check that this machine has the toolkit that asks.

    Raises:
        MissingRequirement: it has another version.
    """
    if version != __version__:
        raise MissingRequirement(
            f"resnext-toolkit {__version__} is installed there, {version} here",
            hint=f"pip install resnext-toolkit=={version} on that machine",
        )
