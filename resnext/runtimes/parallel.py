"""Parallel sessions of one artifact, for runtimes that run one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from .session import Arrays, Bound, Delivered, Session


class ParallelSession(Session):
    """As many sessions as requests may be in flight, each with its share of the CPU threads, and on
    a GPU with its own stream.

    Everything but `streams` uses the first one.

    Args:
        sessions: at least one; this closes them.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions, self._first = sessions, sessions[0]
        super().__init__(self._first.backend, self._first.batch_ranges)
        self.inputs, self.outputs = self._first.inputs, self._first.outputs

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on the first session."""
        return self._first.run(inputs)

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        """`run` of each session."""
        return tuple(session.run for session in self._sessions)

    def _bind(self, inputs: Arrays) -> Bound:
        """Bind on every session, because some choose kernels then; give the first's."""
        first, *others = [session.bind(inputs) for session in self._sessions]
        for bound in others:
            bound.close()
        return first

    def delivered(self) -> Delivered:
        """The first session's layers, with the threads of all sessions."""
        first, count = self._first.delivered(), len(self._sessions)
        notes = {**first.notes, "streams": f"{count} (parallel sessions)"}
        if "threads" in notes:
            notes["threads"] = str(int(notes["threads"]) * count)
        return replace(first, notes=notes)

    def close(self) -> None:
        """Close all sessions."""
        super().close()
        for session in self._sessions:
            session.close()
