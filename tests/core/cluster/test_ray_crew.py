"""A real cluster of two nodes on the loopback address, one of which is killed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnext.cluster.dispatch import dispatch
from resnext.cluster.parcels import Parcel
from resnext.cluster.ray_crew import RayCrew
from resnext.cluster.units import Unit

ROOT = Path(__file__).parents[3]
#: Ray takes this machine's outer address for 127.0.0.1, but leaves these alone.
HEAD, OTHER = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    paths = [ROOT, ROOT / "export", ROOT / "benchmarks", ROOT / "tests"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        # Ray leaves pipes and log files open, in this process, too.
        warnings.simplefilter("ignore", ResourceWarning)
        cluster_utils = pytest.importorskip("ray.cluster_utils")
        head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": HEAD}
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        session = Path(made.head_node.get_session_dir_path())
        try:
            yield made
        finally:
            made.shutdown()
            shutil.rmtree(session, ignore_errors=True)
            latest = session.with_name("session_latest")
            if latest.is_symlink() and not latest.exists():
                latest.unlink()


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
