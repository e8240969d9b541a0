"""Parallel sessions of one artifact, for runtimes that run one request at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from .registry import SessionOptions
from .session import Arrays, Bound, Delivered, Session


class ParallelSession(Session):
    """As many sessions as requests may be in flight, each with its share of the CPU threads, and on
    a GPU with its own stream.

    Everything but `lanes` uses the first one.

    Args:
        open_one: opens a session.
        options: threads and streams.
    """

    def __init__(
        self, open_one: Callable[[SessionOptions], Session], options: SessionOptions
    ) -> None:
        share = replace(options, threads=options.thread_count // options.streams or 1, streams=1)
        with ExitStack() as stack:
            self._sessions = [stack.enter_context(open_one(share)) for _ in range(options.streams)]
            self._stack = stack.pop_all()
        self._first = first = self._sessions[0]
        super().__init__(first.backend, first.batch_ranges)
        self.inputs, self.outputs = first.inputs, first.outputs

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on the first session."""
        return self._first.run(inputs)

    def lanes(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
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
        self._stack.close()
