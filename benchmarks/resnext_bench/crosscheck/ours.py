"""Our side: an open session with its input bound, timed like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import Bound, Session
from resnext.timing.clock import iterations_for, time_device, time_visit
from resnext.timing.streams import time_streams
from resnext.verify.inputs import seeded_inputs

from .setup import Setup
from .tool import Tool

_WARMUP_RUNS = 3


@dataclass(frozen=True)
class Ours:
    """Our side of a comparison.

    Attributes:
        session: of the tool's runtime.
        inputs: the input batch.
        bounds: the same, bound once for each stream.
        boundary: as in `Tool`.
    """

    session: Session
    inputs: dict[str, NDArray[Any]]
    bounds: tuple[Bound, ...]
    boundary: str

    def run_ns(self, duration_s: float) -> float:
        """Nanoseconds of one run, mean over about ``duration_s`` seconds of runs; with several
        streams, the time divided by all runs that ended in it.
        """
        first, streams = self.bounds[0], len(self.bounds)
        if self.boundary == "device":
            estimate = sum(time_device(first, _WARMUP_RUNS)[0]) / _WARMUP_RUNS
            times, _ = time_device(first, iterations_for(duration_s * 1e9, estimate))
            return sum(times) / len(times)
        calls = [bound.enqueue for bound in self.bounds]
        if self.boundary == "run":
            calls = [self._run]
        time_streams(calls, _WARMUP_RUNS)
        estimate = min(time_streams(calls, _WARMUP_RUNS))
        count = iterations_for(duration_s * 1e9, estimate)
        times = time_visit(calls[0], count) if streams == 1 else time_streams(calls, count)
        return sum(times) / len(times) / streams

    def _run(self) -> None:
        self.session.run(self.inputs)


@contextmanager
def opened(artifact: Artifact, tool: Tool, setup: Setup) -> Iterator[Ours]:
    """Our side of ``setup``.

    Raises:
        ResnextError: whatever opening and binding raise.
    """
    manifest = artifact.manifest
    options = SessionOptions(
        device="cuda" if tool.boundary == "device" else "cpu",
        threads=setup.threads,
        streams=setup.streams,
        cuda_graph=setup.cuda_graph,
    )
    images = seeded_inputs(manifest, setup.shape[0])
    with ExitStack() as stack:
        session = stack.enter_context(open_session(artifact, tool.backend, options=options))
        (spec,) = session.inputs
        inputs = {spec.name: np.ascontiguousarray(spec.cast(images))}
        bounds = tuple(stack.enter_context(session.bind(inputs)) for _ in range(setup.streams))
        yield Ours(session, inputs, bounds, tool.boundary)
