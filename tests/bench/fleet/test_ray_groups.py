"""Real groups on two nodes of ``ray start``: everything that may end in between."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from resnext.machine.threads import thread_budget
from resnext_bench.fleet.merged import Merged, merge
from resnext_bench.fleet.results import Results

pytestmark = pytest.mark.exhaustive
ROOT = Path(__file__).parents[3]
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
WHAT = ("--backend", "torch,ort-cpu", "--weights", "digits", "--batch", "1,2,4")
QUICK = ("--duration", "0.02", "--rounds", "1", "--warmup", "0", "--samples", "2")


class Cluster:
    """Two nodes on the loopback address; commands that use them."""

    def __init__(self, folder: Path) -> None:
        paths = [ROOT, ROOT / "export", ROOT / "benchmarks"]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RESNEXT_CACHE_DIR": str(folder / "cache"),
        }
        self.folder = folder
        self.commands: list[subprocess.Popen[str]] = []
        # Ray's sockets have long names; below 10002, where its workers' ports begin.
        self.temporary = Path(f"/tmp/ray-{os.getpid()}")
        with socket.socket() as free:
            for port in range(6400, 6500):
                with suppress(OSError):
                    free.bind((HEAD, port))
                    break
        self.address = f"{HEAD}:{port}"
        self.nodes = [
            self.start("--head", "--port", str(port), "--temp-dir", str(self.temporary), ip=HEAD),
            self.start("--address", self.address, ip=OTHER),
        ]

    def start(self, *words: str, ip: str) -> subprocess.Popen[bytes]:
        more = ["--include-dashboard", "false"] if "--head" in words else []
        return subprocess.Popen(
            [
                *(str(Path(sys.executable).parent / "ray"), "start", "--block", *words, *more),
                *("--node-ip-address", ip, "--num-cpus", "1", "--disable-usage-stats"),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        for command in self.commands:
            if command.poll() is None:
                command.kill()
                command.communicate()
        for node in reversed(self.nodes):
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
        for node in self.nodes:
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
        for pid in processes(str(self.temporary)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def command(self, *words: str) -> subprocess.Popen[str]:
        command = subprocess.Popen(
            [sys.executable, "-m", "resnext_bench.cli.bench", *words],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.commands.append(command)
        return command

    def plan(self, *words: str) -> None:
        done = self.command("plan", *WHAT, *QUICK, *words, "--output", "plan.json")
        _, said = done.communicate()
        assert done.returncode == 0, said

    def run(self, *words: str) -> subprocess.Popen[str]:
        return self.command(
            *("run-cells", "plan.json", "--into", "results", "--ray", self.address, *words)
        )

    def measuring(self) -> list[int]:
        """Processes of this cluster that run a group."""
        found = []
        for pid in processes("resnext_bench.cli.bench import main", "--json run.json"):
            with suppress(OSError):
                if str(self.folder).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
        return found

    def merged(self) -> Merged:
        return merge(Results.read(self.folder / "results"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    made = Cluster(tmp_path)
    try:
        until(lambda: len(processes("raylet/raylet", str(made.temporary))) == 2)
        yield made
    finally:
        made.close()
    assert not processes(str(made.temporary))


def processes(*words: str) -> list[int]:
    """Processes whose command line has all these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ")
            if all(word.encode() in line for word in words):
                found.append(int(path.parent.name))
    return found


def until(true: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_every_group_is_measured_and_placed_by_what_machines_have(cluster: Cluster) -> None:
    cluster.plan("--on", "each", "--on", "gpu=none")
    done = cluster.run()
    _, said = done.communicate(timeout=300)
    assert done.returncode == 0, said
    merged = cluster.merged()
    assert not merged.absent
    assert len(merged.tables) == 1  # both nodes are this machine
    assert len(merged.standings) == 3
    # As beside Ray, which was told of one CPU.
    assert merged.tables[0].threads == thread_budget(environ={}).count
    cluster.plan("--on", "gpu=B200")
    shutil.rmtree(cluster.folder / "results")
    refused = cluster.run()
    _, said = refused.communicate(timeout=300)
    assert refused.returncode == 3
    assert "no machine has gpu=B200; there are: isa=" in said


def test_a_killed_driver_goes_on_where_it_was(cluster: Cluster) -> None:
    cluster.plan()
    results = cluster.folder / "results"
    driver = cluster.run()
    until(lambda: [path for path in results.glob("*.json") if path.name != "plan.json"])
    driver.kill()
    driver.communicate()
    until(lambda: not cluster.measuring())
    written = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    again = cluster.run()
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert not cluster.merged().absent
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert {name: after[name] for name in written} == written


def test_a_hung_group_is_ended_and_measured_again(cluster: Cluster) -> None:
    cluster.plan()
    driver = cluster.run("--patience", "15s")
    until(cluster.measuring)
    hung = cluster.measuring()[0]
    os.kill(hung, signal.SIGSTOP)
    _, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert "lost a worker: no sign of life for 15 s" in said
    assert not cluster.merged().absent
    assert not Path(f"/proc/{hung}").exists()


def test_a_killed_node_loses_no_group(cluster: Cluster) -> None:
    cluster.plan()
    driver = cluster.run()
    until(lambda: len(cluster.measuring()) == 2)
    for pid in processes("raylet/raylet", f"--node_ip_address={OTHER}"):
        os.kill(pid, signal.SIGKILL)
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    assert "lost a worker" in said
    assert not cluster.merged().absent


def test_an_interruption_ends_every_worker(cluster: Cluster) -> None:
    cluster.plan()
    driver = cluster.run()
    until(cluster.measuring)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    until(lambda: not cluster.measuring(), 20)
