"""Served models as rows: beside the local session, and nothing claimed that is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exported import export_onnx
from fakes.calm import calm
from fakes.v2_grpc import serving_grpc
from fakes.v2_server import Run as Network
from fakes.v2_server import V2Server, serving
from resnext.artifact.files import Artifact
from resnext.machine.load import Load
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import SERVED, Counters
from resnext.weights.spec import load_weights
from resnext_bench.cli.bench import main
from resnext_bench.limits.needed import Limits
from resnext_bench.measure import Samples
from resnext_bench.record import Row
from resnext_bench.result import Run, read_run
from resnext_bench.served import server_times

QUICK = (
    "--duration",
    "0.01",
    "--rounds",
    "2",
    "--warmup",
    "0",
    "--threads",
    "1",
    "--precision-target",
    "90%",
)


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)
    monkeypatch.setattr(
        "resnext_bench.memory.release_free", lambda: None
    )  # slow, and not in question


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(
        load_weights("digits"), tmp_path_factory.mktemp("v2-rows") / "digits", check=False
    )


@pytest.fixture(scope="module")
def network(artifact: Artifact) -> Iterator[Network]:
    with open_session(artifact, "ort-cpu", options=SessionOptions(threads=1)) as session:
        yield lambda images: session.run({"input": images})["logits"]


def bench(
    artifact: Artifact, urls: Sequence[str], folder: Path, *more: str, batch: str = "1,4"
) -> tuple[Run, int, str]:
    """A run of ort-cpu and the servers: the run, the exit code and the report."""
    backends = ",".join(["ort-cpu", *(f"v2:{url}" for url in urls)])
    path = folder / "run.json"
    common = ["--backend", backends, "--artifact", str(artifact.directory), "--batch", batch]
    done = CliRunner().invoke(main, [*common, *QUICK, "--json", str(path), *more])
    assert path.is_file(), done.output
    return read_run(path), done.exit_code, done.output


def test_a_served_model_is_measured_beside_the_local_session(
    artifact: Artifact, network: Network, tmp_path: Path
) -> None:
    server = V2Server(artifact.manifest, network, digest=artifact.manifest.file_sha256)
    page, document = tmp_path / "run.html", tmp_path / "run.md"
    with serving(server), serving_grpc(V2Server(artifact.manifest, network)) as other:
        files = ("--html", str(page), "--markdown", str(document))
        run, code, text = bench(artifact, (server.url, other.url), tmp_path, *files)
    assert code == 0, text
    assert [row.status for row in run.rows] == ["valid"] * 6
    assert {row.backend for row in run.rows} == {
        "ort-cpu",
        f"v2:{server.url}",
        f"v2:{other.url}",
    }
    for row in run.rows:
        (timing,) = row.timings
        assert timing.boundary == "host"
        assert timing.speedup is not None  # of one batch, over the local session
        assert row.parity is not None
        assert row.integrity is not None
        assert row.parity.passed
        assert row.integrity.passed
        if row.backend == "ort-cpu":
            assert row.served is None
            continue
        _claims_nothing(row)
        confirmed = row.backend.endswith(server.url)
        assert row.artifact_sha256 == (artifact.manifest.file_sha256 if confirmed else None)
        assert row.served is not None
        assert row.served.confirmed == confirmed
        times = row.served.times
        assert times is not None
        assert times.sent == times.requests == sum(map(len, timing.rounds_ns))
        assert (times.server_ns, times.queue_ns, times.infer_ns) == (100_000, 10_000, 80_000)
        assert times.batch == row.batch
        assert times.overhead_ns == pytest.approx(times.client_ns - 100_000)
    shown = f"{server.url} batch 4:"
    for report in (text, document.read_text()):
        assert "Served models (means of a request)" in report
        assert "0.100 ms in the server (queue 0.010, input 0.005, inference 0.080," in report
        assert "runs a file it does not name" in report
        assert shown in report
    assert "overhead ms" in page.read_text()


def _claims_nothing(row: Row) -> None:
    """What is the server's is not there."""
    unknown = (row.peak_host_bytes, row.peak_device_bytes, row.model_size_bytes, row.setup_s)
    assert {*unknown, row.distance, row.energy, row.cold_start, row.bind_s} == {None}
    assert (row.device, row.delivered, row.modules) == (SERVED, "unknown", {})


#: A server, the status of its row, and what is said of it.
FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "bare": ({"triton": False}, "valid", "does not count its time"),
    "dies": ({"fault": "dies", "after": 12}, "failed", "broke off in the middle"),
    "other file": ({"digest": "f" * 64}, "failed", "sha256 ffffffffffff"),
    "too small": ({"max_batch": 1}, "failed", "takes at most 1 images"),
    "not ready": ({"fault": "not-ready"}, "failed", "not ready"),
    "cached": ({"fault": "cached"}, "invalid", "from its cache"),
}


def test_a_fault_of_a_server_is_its_own_rows_alone(
    artifact: Artifact, network: Network, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serving(V2Server(artifact.manifest, network, **changes)))
            for changes, _, _ in FAULTS.values()
        ]
        urls = [server.url for server in servers]
        run, code, text = bench(artifact, urls, tmp_path, batch="2")
    assert code == 1  # one is measured, and is invalid
    assert [row.status for row in run.rows] == ["valid", *(each[1] for each in FAULTS.values())]
    for row, (_, _, message) in zip(run.rows[1:], FAULTS.values(), strict=True):
        about = [line for line in text.splitlines() if row.backend in line]
        assert any(message in line for line in about), text
        assert row.exit_code == (4 if row.status == "failed" else 0)


#: Fault, load, and what is wrong with it.
LOADS = {"": ("poisson:900", ""), "swapped": ("closed:2", "wrong-under-load")}


@pytest.mark.parametrize("fault", LOADS)
def test_requests_in_flight_get_their_own_rows_or_it_is_found(
    fault: str, artifact: Artifact, network: Network, tmp_path: Path
) -> None:
    load, code = LOADS[fault]
    with serving(V2Server(artifact.manifest, network, fault=fault)) as server:
        more = ("--streams", "2", "--load", load, "--cold-start")  # which no server has
        backend = ("--backend", f"v2:{server.url}")  # the last one counts
        run, _, text = bench(artifact, [server.url], tmp_path, *more, *backend, batch="2")
    (row,) = run.rows
    assert row.load is not None, text
    assert row.load.probes[0].requests >= 11
    assert "cold start are the server's, and not known here" in text
    _claims_nothing(row)
    found = {finding.code for finding in row.findings if finding.severity == "refused"}
    assert ("wrong-under-load" in found) == bool(code)


def test_the_processors_that_a_server_here_takes_do_not_disturb_its_row() -> None:
    busy = Load(wall_s=1.0, processors=2, cores=2, own=0.5, others=1.5, stolen=0.0, waiting=0.5)
    assert busy.disturbances(1)
    assert busy.disturbances(None) == ()
    stolen = busy.model_copy(update={"stolen": 1.0, "throttled": 0.5})
    assert [reason.partition(" (")[0] for reason in stolen.disturbances(None)] == [
        "steal time",
        "the CPU quota",
    ]


def test_a_server_has_no_limit_of_this_machine() -> None:
    planted: Any = {("cuda", None): "ceilings", ("cpu", 1): "ceilings"}
    assert Limits(planted).of(SERVED, 1) is None


def test_the_servers_times_are_those_of_the_quiet_rounds() -> None:
    counted = [Counters(2, 2, 4, 1, 0, 20, 2, 1, 10, 1), Counters(2, 5, 9, 2, 0, 900, 9, 9, 9, 9)]
    samples = Samples(host_ns=[[30, 50], [1000, 1000]], counted=counted)
    samples.disturbed = {1: ("other processes",)}
    times = server_times(samples)
    assert times is not None
    assert (times.client_ns, times.server_ns, times.overhead_ns) == (40.0, 10.0, 30.0)
    assert (times.batch, times.others) == (4.0, 0)
    samples.disturbed = {}
    every = server_times(samples)
    assert every is not None
    assert (every.requests, every.sent, every.others) == (7, 4, 1)  # two may only be late
    assert server_times(Samples(host_ns=[[30]])) is None


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("v2:http://host", "path is not the name of a model"),
        ("v2:ftp://host/digits", "scheme 'ftp' is not"),
        ("ort-cpu:http://host/digits", "unknown backend"),
    ],
)
def test_a_wrong_spelling_is_refused_before_anything_is_opened(backend: str, message: str) -> None:
    done = CliRunner().invoke(main, ["--backend", backend])
    assert done.exit_code == 2
    assert message in done.stderr
