"""Processes as workers: killed, refused, replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resnext.cluster.dispatch import dispatch
from resnext.cluster.local import LocalCrew
from resnext.cluster.units import Unit
from resnext.errors import BadInput, MissingRequirement, UsageError


def test_a_killed_worker_is_replaced_and_errors_are_answers(tmp_path: Path) -> None:
    said: list[str] = []
    with LocalCrew(2, "fakes.crew:dying_once", (str(tmp_path),)) as crew:
        units = [Unit(str(number), number) for number in range(6)]
        settled = {one.unit.id: one for one in dispatch(units, crew, say=said.append)}
        processes = [process._process.pid for process in crew._processes.values()]
    assert {id for id in settled if settled[id].receipt == int(id)} == {"0", "1", "2"}
    assert settled["2"].tries == 2
    assert str(settled["3"].error) == "3 is no good; give 4"
    assert isinstance(settled["3"].error, BadInput)
    assert str(settled["4"].error) == "unexpected ZeroDivisionError: ZeroDivisionError"
    assert settled["5"].receipt is UsageError
    assert "lost a worker: its process died (signal SIGKILL)" in said
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("factory", "args", "kind", "message"),
    [
        ("fakes.crew:refusing", ("no GPU",), MissingRequirement, "no GPU"),
        ("fakes.crew:nothing", (), UsageError, "there is no factory fakes.crew:nothing"),
        ("os:_exit", (3,), MissingRequirement, r"this machine ended .* \(exit code 3\)"),
    ],
)
def test_a_factory_that_fails_is_one_error(
    factory: str, args: tuple[object, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message), LocalCrew(1, factory, args) as crew:
        list(dispatch([Unit(str(number)) for number in range(9)], crew))


def test_what_cannot_be_pickled_is_refused() -> None:
    with (
        pytest.raises(BadInput, match="cannot send a unit"),
        LocalCrew(1, "fakes.crew:doubling") as crew,
    ):
        list(dispatch([Unit("x", lambda: 1)], crew))


def test_a_worker_does_as_many_units_at_once_as_its_crew_says() -> None:
    with LocalCrew(1, "fakes.crew:meeting", (2,), depth=2) as crew:
        settled = list(dispatch([Unit(str(number), number) for number in range(6)], crew))
    assert sorted(one.receipt for one in settled) == list(range(6))


def test_a_crew_has_workers() -> None:
    with pytest.raises(UsageError, match="0 workers"):
        LocalCrew(0, "fakes.crew:doubling")
