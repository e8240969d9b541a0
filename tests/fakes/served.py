"""Sessions of a known service time, and the stage at which a scenario meets them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.runtimes.session import Arrays
from resnext.testing import FakeSession
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples, Subject
from resnext_bench.plan import Case
from resnext_bench.scenarios.scenario import Stage

MS = 1_000_000
NONE: Any = None


class Served(FakeSession):
    """Takes a known time, on as many streams as requested, and answers with part of its input.

    Args:
        seconds: time of a run by its number.
        streams: requests in flight.
    """

    def __init__(self, seconds: Callable[[int], float], streams: int = 1) -> None:
        super().__init__(in_shape=(4,))
        self._seconds, self._streams = seconds, streams

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Sleep."""
        self.calls += 1
        time.sleep(self._seconds(self.calls))
        return {"logits": inputs["input"][:, :2].copy()}

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        """As many as requested."""
        return (self.run,) * self._streams


class Confused(Served):
    """Gives a request the answer of whatever another stream was last given."""

    last: NDArray[Any] | None = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Swap."""
        mine, self.last = self.last, inputs["input"]
        time.sleep(0.001)
        return {"logits": (inputs["input"] if mine is None else self.last)[:, :2].copy()}


def stage(session: FakeSession, streams: int = 1, timed_ns: int = MS, **others: Any) -> Stage:
    inputs = {"input": np.arange(8, dtype=np.float32).reshape(2, 4)}
    subject = Subject(session, inputs, session.bind(inputs))
    fields = {"deadline": Deadline(), "seed": 0, **others}
    case = Case("fake", 2, streams=streams)
    samples = Samples(host_ns=[[timed_ns] * 11])
    return Stage(case, subject, samples, NONE, None, **fields)
