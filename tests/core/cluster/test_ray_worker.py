"""A worker that has the whole machine measures as a process beside Ray would."""

from __future__ import annotations

import os

import pytest

from resnext.cluster.ray_worker import RayWorker


@pytest.fixture
def niceness(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """By process: of this one, and of whatever started it."""
    values = {0: 15, os.getppid(): 3}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "getpriority", lambda _, pid: values[pid])
    monkeypatch.setattr(os, "setpriority", lambda _, pid, value: values.update({pid: value}))
    return values


def denied(*_: int) -> None:
    raise PermissionError


def test_a_whole_machine_has_all_threads_and_the_usual_priority(niceness: dict[int, int]) -> None:
    assert RayWorker(True).pulse() == (0, "")
    assert "OMP_NUM_THREADS" not in os.environ
    assert niceness[os.getpid()] == 3


def test_a_share_of_a_machine_stays_as_ray_made_it(niceness: dict[int, int]) -> None:
    RayWorker()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.getpid() not in niceness


@pytest.mark.parametrize(("own", "says"), [(15, "RAY_worker_niceness=0"), (3, "")])
def test_a_priority_that_stays_low_is_said(
    niceness: dict[int, int], monkeypatch: pytest.MonkeyPatch, own: int, says: str
) -> None:
    niceness[0] = own
    monkeypatch.setattr(os, "setpriority", denied)
    beats, line = RayWorker(True).pulse()
    assert (beats, says in line) == (int(bool(says)), True)
