"""Timing the driver: every shard comes back, whoever the crew is."""

from __future__ import annotations

from itertools import islice

import pytest
from click.testing import CliRunner

import dispatch_rate
from dispatch_rate import FOLDER, Echo, driver_ms, echo, main
from resnext.cluster.crew import Event
from resnext.cluster.dispatch import dispatch
from resnext.cluster.units import Unit


@pytest.mark.parametrize("at_once", [1, 7])
def test_an_echo_settles_every_shard(at_once: int) -> None:
    units = [Unit(str(number)) for number in range(50)]
    with Echo(7, at_once) as crew:
        settled = [*dispatch(units, crew)]
    assert sorted(int(each.unit.id) for each in settled) == [*range(50)]
    assert {each.receipt for each in settled} == {"receipt"}
    processor, wall = driver_ms(Echo(7, at_once), 50, None)
    assert 0 <= processor < 100
    assert 0 < wall < 1000


def test_a_worker_s_receipt_is_small_and_a_folder_s_descriptor_lists_its_pictures() -> None:
    assert len(echo()(FOLDER)) < 100
    assert len(FOLDER) == 2048


def test_a_shard_that_is_never_settled_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_rate, "dispatch", lambda units, _: islice(units, len(units) - 1))
    with pytest.raises(AssertionError):
        driver_ms(Echo(2, 1), 20, None)


def test_it_prints_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    class Local(Echo):
        def __init__(self, count: int, factory: str, depth: int) -> None:
            assert (factory, depth) == ("dispatch_rate:echo", 2)
            super().__init__(count, at_once=1)

        def give(self, slot: str, id: str, payload: object) -> None:
            given.append(payload)
            super().give(slot, id, payload)

        def wait(self, timeout_s: float) -> list[Event]:
            return [*super().wait(timeout_s)]

    monkeypatch.setattr(dispatch_rate, "LocalCrew", Local)
    result = CliRunner().invoke(main, ["--shards", "20", "--units", "50"])
    assert result.exit_code == 0, result.output
    assert given == [dispatch_rate.TAR] * 20 + [FOLDER] * 20
    assert [line.split(" | ")[0] for line in result.output.splitlines()[2:5]] == [
        "| 2 processes, a tar file",
        "| 2 processes, 2,048 pictures of a folder",
        "| bookkeeping for 10 workers, answers one at a time",
    ]
