"""Requests of several clients at once: a server that mistakes their rows is found out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext.errors import SessionFailed
from resnext.runtimes.counters import Counters
from resnext.runtimes.session import Arrays
from resnext.testing import FakeSession
from resnext.verify.batches.mixed import Mixed, mixed_requests

IMAGES = np.random.default_rng(0).standard_normal((13, 6)).astype(np.float32)
Wrong = Callable[[NDArray[Any]], NDArray[Any]]
_WEIGHTS = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)


def network(images: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((images[:, :, None] * _WEIGHTS).sum(axis=1), np.float32)


class Server(FakeSession):
    """Runs the requests of two clients together; the second gets what ``wrong`` makes of its
    rows.
    """

    def __init__(self, wrong: Wrong, batches: bool = True) -> None:
        super().__init__(network, (6,), 5)
        self._wrong, self._batches = wrong, batches
        self._both = threading.Barrier(2)
        self._waiting: dict[int, NDArray[Any]] = {}
        self._counted = Counters()

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        return tuple(lambda inputs, at=at: self._shared(at, inputs) for at in (0, 1))

    def counters(self) -> Counters:
        return self._counted

    def _shared(self, at: int, inputs: Arrays) -> dict[str, NDArray[Any]]:
        self._waiting[at] = inputs["input"]
        self._both.wait()
        if at == 0:
            runs = 1 if self._batches else 2
            self._counted += Counters(requests=2, executions=runs)
        logits = network(np.concatenate([self._waiting[0], self._waiting[1]]))
        first = 0 if at == 0 else len(self._waiting[0])
        rows = logits[first : first + len(inputs["input"])]
        self._both.wait()
        return {"logits": self._wrong(rows) if at == 1 else rows}


def mixed(session: FakeSession, sizes: tuple[int, ...] = (1, 2, 3)) -> Mixed:
    return mixed_requests(session, IMAGES, numerics="fp32", sizes=sizes)


def test_rows_that_stay_apart_pass_and_batching_is_seen() -> None:
    outcome = mixed(Server(lambda logits: logits))
    assert outcome.integrity.passed
    assert [law.law for law in outcome.integrity.laws] == ["mixed"]
    assert outcome.batched
    assert outcome.requests == 2 * 2 * 6  # two rounds were enough


def test_without_batching_more_rounds_are_tried_and_that_is_said() -> None:
    outcome = mixed(Server(lambda logits: logits, batches=False))
    assert outcome.integrity.passed
    assert outcome.batched is False
    assert outcome.requests > 2 * 2 * 6


def refuse(logits: NDArray[Any]) -> NDArray[Any]:
    raise SessionFailed(f"{len(logits)} rows were lost")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda logits: network(IMAGES[:1]).repeat(len(logits), axis=0), "another image"),
        (lambda logits: logits * np.float32(1.01), "is off by"),
        (lambda logits: logits[:-1], "shape"),
        (refuse, "rows were lost"),
    ],
    ids=["rows of others", "drift", "a row missing", "refused"],
)
def test_what_a_client_should_not_get_breaks_the_law(wrong: Wrong, says: str) -> None:
    outcome = mixed(Server(wrong))
    assert not outcome.integrity.passed
    assert {finding.code for finding in outcome.integrity.findings} == {"batch-mixed"}
    assert says in outcome.integrity.failures[0]


def test_a_session_without_statistics_is_compared_all_the_same() -> None:
    outcome = mixed(FakeSession(network, (6,), 5))
    assert outcome.integrity.passed
    assert outcome.counted is None
    assert outcome.batched is None
