"""A real cluster of two nodes on the loopback address, one of which is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.ray_cluster import HEAD, OTHER, ray_cluster
from resnext.cluster.dispatch import dispatch
from resnext.cluster.parcels import Parcel
from resnext.cluster.ray_crew import RayCrew
from resnext.cluster.units import Unit


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with ray_cluster(tmp_path, monkeypatch) as made:
        yield made


def test_a_killed_node_loses_nothing_and_no_unit_is_settled_twice(
    cluster: Any, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1, node_ip_address=OTHER)
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "model.onnx").write_bytes(b"model")
    go = tmp_path / "go"
    killed: list[Any] = []

    def kill_once_it_works(line: str) -> None:
        at_work = [slot for slot, actor in crew._actors.items() if any(actor.awaited.values())]
        if not killed and any(slot.startswith(OTHER) for slot in at_work):
            cluster.remove_node(node, allow_graceful=False)
            killed.append(node)
        if line.startswith("lost a worker: Actor"):
            go.touch()

    with RayCrew(cluster.address, "fakes.crew:waiting", cpus=2) as greedy:
        assert not greedy.slots()
        assert greedy.missing().startswith("a worker needs 2 CPU; 127.0.0.")
    # Ray gives its own processes one thread here, and niceness 15, which not everybody may undo.
    with RayCrew(cluster.address, "fakes.crew:surroundings", cpus=None, count=1) as whole:
        (alone,) = dispatch([Unit("alone")], whole)
        assert alone.receipt in (f"{os.nice(0)} None", "15 None")
    args = (str(tmp_path), str(go), Parcel.of(sent))
    with RayCrew(cluster.address, "fakes.crew:waiting", args) as crew:
        assert {place.partition("/")[0] for place in crew.slots().values()} == {HEAD, OTHER}
        units = [Unit(str(number), number) for number in range(6)]
        settled = list(dispatch(units, crew, say=kill_once_it_works))
    assert sorted(one.unit.id for one in settled) == [unit.id for unit in units]
    assert all(one.receipt == (one.unit.payload, b"model") for one in settled)
    assert sum(one.tries == 2 for one in settled) == 1
    assert [(tmp_path / unit.id).read_text() for unit in units] == ["x"] * 6


def test_nothing_of_ray_is_left() -> None:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        assert not (b"raylet" in words and HEAD.encode() in words)
