"""Batch integrity of a session that several clients use at once: a server may batch their requests,
and must not mistake their rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.runtimes.counters import Counters
from resnext.runtimes.session import Session

from ..parity import gate_for
from .exam import described
from .laws import Integrity, Ledger

#: Requests that each client sends in one round.
_REQUESTS = 6
#: Rounds at least; more follow until the server has batched some requests, up to so many.
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 8


@dataclass(frozen=True)
class Mixed:
    """The outcome of mixed requests.

    Attributes:
        integrity: the law ``mixed``.
        requests: how many were sent.
        counted: what the server counted meanwhile; None if it does not tell.
    """

    integrity: Integrity
    requests: int
    counted: Counters | None

    @property
    def batched(self) -> bool | None:
        """Whether some requests shared a run of the network; None if nobody knows."""
        if self.counted is None:
            return None
        return self.counted.executions < self.counted.requests


def mixed_requests(
    session: Session,
    images: NDArray[Any],
    *,
    numerics: str,
    sizes: Sequence[int],
    rounding: float | None = None,
    seed: int = 0,
) -> Mixed:
    """Have all streams of a session send requests of different sizes and images at once.

    Args:
        session: opened with several streams.
        images: different images, in the form that the session takes.
        numerics: key of `NUMERICS`, for the limits.
        sizes: batch sizes to send, the smallest first.
        rounding: as measured by another check of this session (`Integrity.rounding`).
        seed: of the sizes and images.
    """
    ledger = Ledger(gate_for(numerics).max_error)
    ledger.rounding = rounding
    smallest = sizes[0]
    rows = [(np.arange(smallest) + at) % len(images) for at in range(len(images))]
    alone = np.stack([session(images[each])[0] for each in rows])
    ledger.begin(alone.astype(np.float64))
    random = np.random.Generator(np.random.PCG64(seed))
    before, sent, counted = session.counters(), 0, None
    for number in range(_MOST_ROUNDS):
        plans = [
            [random.integers(len(images), size=int(random.choice(sizes))) for _ in range(_REQUESTS)]
            for _ in session.streams()
        ]
        for asked, answer in _round(session, images, plans):
            sent += 1
            if isinstance(answer, Exception):
                ledger.fail("mixed", len(asked), f"batch {len(asked)}: {described(answer)}")
            else:
                want = ledger.base[asked]
                ledger.compare("mixed", answer.astype(np.float64), want, among=ledger.base)
        after = session.counters()
        counted = after - before if after is not None and before is not None else None
        seen = counted is None or counted.executions < counted.requests
        if number + 1 >= _LEAST_ROUNDS and seen:
            break
    integrity = ledger.outcome(backend=session.backend, quick=True, artifact_sha256=None)
    return Mixed(integrity, sent, counted)


def _round(
    session: Session, images: NDArray[Any], plans: Sequence[Sequence[NDArray[Any]]]
) -> list[tuple[NDArray[Any], NDArray[Any] | Exception]]:
    """Each stream's requests, one after the other, all streams at once; with what each gave."""
    spec, result = session.inputs[0], session.outputs[0]
    together = threading.Barrier(len(plans))

    def client(
        run: Callable[..., dict[str, NDArray[Any]]], plan: Sequence[NDArray[Any]]
    ) -> list[tuple[NDArray[Any], NDArray[Any] | Exception]]:
        requests = [{spec.name: spec.cast(images[rows])} for rows in plan]
        answers: list[NDArray[Any] | Exception] = []
        together.wait()
        for request in requests:
            try:
                answers.append(run(request)[result.name])
            except Exception as exc:  # whatever a runtime raises
                answers.append(exc)
        return list(zip(plan, answers, strict=True))

    with ThreadPoolExecutor(len(plans)) as pool:
        clients = [
            pool.submit(client, run, plan)
            for run, plan in zip(session.streams(), plans, strict=True)
        ]
        return [pair for each in clients for pair in each.result()]
