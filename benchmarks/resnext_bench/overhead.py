"""What the harness itself adds to a timed run."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.runtimes.session import Arrays
from resnext.testing import FakeSession
from resnext.timing.clock import now_ns

from .measure import Samples, Subject, visit

_PAIRS = 9


class IdleSession(FakeSession):
    """Returns the same array without looking at its input: the fastest run that there can be."""

    def run(self, _inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Nothing."""
        return self._answer

    _answer = {"logits": np.zeros((1, 2), np.float32)}  # noqa: RUF012  # never changed


def harness_ns(session: FakeSession | None = None, iterations: int = 1000) -> float:
    """Nanoseconds that `visit` adds to a run: the clock, the loop, and keeping the output.

    The same runs are timed by `visit` and, between two readings of the clock, in a bare loop, in
    turns; the median of the differences is taken. Takes half a second, for each visit settles.

    Args:
        session: a session without a CUDA stream; by default one that does nothing.
        iterations: runs in each of the loops.
    """
    session = session or IdleSession()
    inputs = {"input": np.zeros((1, 1), np.float32)}
    with session.bind(inputs) as bound:
        subject = Subject(session, inputs, bound)
        added = []
        for _ in range(_PAIRS):
            samples = Samples()
            visit(subject, samples, iterations)
            added.append((sum(samples.host_ns[0]) - _bare_ns(subject, iterations)) / iterations)
    return statistics.median(added)


def _bare_ns(subject: Subject, iterations: int) -> int:
    """Nanoseconds of a loop that only runs, all iterations together."""
    run, inputs = subject.session.run, subject.inputs
    run(inputs)
    before = now_ns()
    for _ in itertools.repeat(None, iterations):
        run(inputs)
    return now_ns() - before
