"""Sessions and rows on real servers: Triton's own core, and MLServer with the bare protocol."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exported import export_onnx
from fakes.calm import calm
from fakes.servers import Running, mlserver, triton_server
from resnext.artifact.files import Artifact
from resnext.errors import SessionFailed
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.v2.session import V2Session
from resnext.verify.batches.integrity import artifact_integrity
from resnext.verify.check import check
from resnext.weights.spec import load_weights
from resnext_bench import benchmark
from resnext_bench.scenarios.load import Load
from resnext_export.triton.options import RepositoryOptions
from resnext_export.triton.repository import write_repository
from resnext_export.triton.server import Server, served

pytestmark = pytest.mark.exhaustive
QUICK: dict[str, Any] = {"duration": 0.2, "rounds": 3, "warmup": 0.1, "threads": 1}


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(load_weights("digits"), tmp_path_factory.mktemp("real") / "digits")


@pytest.fixture(scope="module")
def triton(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    installation = triton_server()
    root = tmp_path_factory.mktemp("repository")
    write_repository(artifact, root, RepositoryOptions(name="digits", cpus=1))
    with served(root, ["onnxruntime"], installation) as server:
        yield server


@pytest.fixture(scope="module")
def other(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with mlserver(artifact, tmp_path_factory.mktemp("mlserver")) as running:
        yield running


@pytest.fixture(params=["triton-http", "triton-grpc", "mlserver-http", "mlserver-grpc"])
def url(request: pytest.FixtureRequest) -> str:
    server, _, over = str(request.param).partition("-")
    if server == "triton":
        return f"{getattr(request.getfixturevalue('triton'), over)}/digits"
    return str(getattr(request.getfixturevalue("other"), over))


def test_parity_and_batch_integrity_hold_on_a_real_server(url: str, artifact: Artifact) -> None:
    outcome = check(artifact, runtime=f"v2:{url}", images=16)
    assert outcome.passed, outcome.failures
    with open_session(artifact, f"v2:{url}") as session:
        integrity = artifact_integrity(session, artifact.manifest, quick=True)
    assert integrity.passed, integrity.failures


def test_requests_that_a_server_batches_get_their_own_rows(url: str, artifact: Artifact) -> None:
    images = np.random.default_rng(0).standard_normal((64, 1, 8, 8), np.float32)
    answers: dict[int, Any] = {}
    options = SessionOptions(streams=16)
    with (
        open_session(artifact, "ort-cpu", options=SessionOptions(threads=1)) as local,
        open_session(artifact, f"v2:{url}", options=options) as session,
    ):

        def ask(first: int) -> None:
            stream = session.streams()[first]
            for index in range(first, 64, 16):
                answers[index] = stream({"input": images[index : index + 1]})["logits"]

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        want = local.run({"input": images})["logits"]
        counters = session.counters()
    got = np.concatenate([answers[index] for index in range(64)])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    if counters is not None:
        assert counters.executions < counters.requests  # it did batch some


def test_a_careless_client_is_refused_by_triton(triton: Server, artifact: Artifact) -> None:
    images = np.zeros((8, 1, 8, 8), np.float32)
    wrong: dict[str, NDArray[Any]] = {
        "NHWC": images.transpose(0, 2, 3, 1).copy(),
        "uint8": images.astype(np.uint8),
        "too many": np.zeros((1000, 1, 8, 8), np.float32),
    }
    for base in (triton.http, triton.grpc):
        with open_session(artifact, f"v2:{base}/digits") as session:
            assert isinstance(session, V2Session)
            for batch in wrong.values():
                with pytest.raises(SessionFailed, match="refused the request"):
                    session._transports[0].infer({"input": batch}, ("logits",))
            assert session.run({"input": images})["logits"].shape == (8, 10)
    with pytest.raises(SessionFailed, match="no model 'digit'; it has digits"):
        open_session(artifact, f"v2:{triton.http}/digit")


def test_tritons_time_and_ours_add_up(triton: Server, artifact: Artifact) -> None:
    urls = [f"v2:{base}/digits" for base in (triton.http, triton.grpc)]
    run = benchmark(artifact, runtimes=["ort-cpu", *urls], batch=[1, 8], **QUICK)
    assert [row.status for row in run.rows] == ["valid"] * 6, run.table()
    for row in run.rows:
        if row.served is None:
            continue
        times = row.served.times
        assert row.served.confirmed
        assert times is not None
        assert times.others == 0
        assert times.batch == pytest.approx(row.batch, rel=0.1)
        parts = (times.queue_ns, times.input_ns, times.infer_ns, times.output_ns)
        assert 0 < sum(parts) <= times.server_ns < times.client_ns


def test_a_real_server_is_loaded_with_requests_in_flight(url: str, artifact: Artifact) -> None:
    scenarios = [Load("closed:4", duration=0.5)]
    run = benchmark(artifact, runtimes=[f"v2:{url}"], streams=4, scenarios=scenarios, **QUICK)
    (row,) = run.rows
    assert row.status == "valid", run.table()
    assert row.load is not None
    assert row.load.probes[0].wrong == ""


def test_a_server_that_is_killed_in_the_middle_fails_its_row_alone(
    artifact: Artifact, tmp_path: Path
) -> None:
    with mlserver(artifact, tmp_path) as running:

        def kill(line: str) -> None:
            if str(line).startswith("round 2"):
                running.process.send_signal(signal.SIGKILL)
                running.process.wait()

        runtimes = ["ort-cpu", f"v2:{running.http}", f"v2:{running.grpc}"]
        run = benchmark(artifact, runtimes=runtimes, progress=kill, **QUICK)
    assert [row.status for row in run.rows] == ["valid", "failed", "failed"]
    for row in run.rows[1:]:
        assert row.exit_code == SessionFailed.exit_code
        assert "127.0.0.1" in row.reasons[0]
        assert "\n" not in row.reasons[0]
