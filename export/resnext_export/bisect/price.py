"""What a mended artifact costs: its time against the original's, both in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, median

import numpy as np

from resnext.artifact.files import Artifact
from resnext.runtimes.registry import REFERENCE, open_session
from resnext.runtimes.session import Bound
from resnext.timing.clock import iterations_for, settle, time_device, time_visit
from resnext.timing.interleave import there_and_back, turns
from resnext.timing.intervals import signed_rank
from resnext.verify.inputs import seeded_inputs

from .record import Price

#: Enough for a 95 % interval that does not end at the extreme rounds.
ROUNDS = 9
#: Timed nanoseconds of one visit, about.
_VISIT_NS = 100e6
_MOST_RUNS = 200


def measured_price(original: Artifact, mended: Artifact, runtime: str, batch: int) -> Price | None:
    """Time both in turns on ``runtime``; None for the reference evaluator, whose time means
    nothing.

    Raises:
        ResnextError: as the runtime.
    """
    if runtime == REFERENCE:
        return None
    inputs = seeded_inputs(original.manifest, batch)
    with open_session(original, runtime) as first, open_session(mended, runtime) as second:
        sides = [
            session.bind({spec.name: np.ascontiguousarray(spec.cast(inputs))})
            for session in (first, second)
            for spec in session.inputs
        ]
        return price_of([_visit(side) for side in sides], batch)


def price_of(visits: list[Callable[[], float]], batch: int) -> Price:
    """The price from visits of the original and of the mended artifact, each the median time of a
    few runs in nanoseconds.
    """
    taken: list[list[float]] = [[], []]
    for _, side in turns((0, 1), ROUNDS, there_and_back):
        taken[side].append(visits[side]())
    # There and back: a steady drift falls out of the means.
    rounds = [[fmean(pair) for pair in zip(side[::2], side[1::2], strict=True)] for side in taken]
    logs = [math.log(mended / original) for original, mended in zip(*rounds, strict=True)]
    found = signed_rank(logs)
    assert found is not None  # there are enough rounds
    return Price(
        batch=batch,
        rounds=ROUNDS,
        original_ms=median(rounds[0]) / 1e6,
        mended_ms=median(rounds[1]) / 1e6,
        ratio=math.exp(found.estimate),
        low=math.exp(found.low),
        high=math.exp(found.high),
    )


def _visit(bound: Bound) -> Callable[[], float]:
    def run() -> None:
        bound.enqueue()
        bound.synchronize()

    on_host = bound.boundary == "host"

    def timed(count: int) -> list[int]:
        if on_host:
            return time_visit(run, count)
        settle(run)
        return time_device(bound, count)[0]

    runs = iterations_for(_VISIT_NS, median(timed(3)), most=_MOST_RUNS)
    return lambda: median(timed(runs))
