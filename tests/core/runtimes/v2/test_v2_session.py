"""A served model as a session: the same answers as the artifact, and every fault told in a line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exported import export_onnx
from fakes.v2_grpc import serving_grpc
from fakes.v2_server import Run, V2Server, serving
from resnext.artifact.files import Artifact
from resnext.errors import (
    BadArtifact,
    BadInput,
    MissingRequirement,
    ResnextError,
    SessionFailed,
    UnknownName,
    UsageError,
)
from resnext.runtimes import registry
from resnext.runtimes.address import Address
from resnext.runtimes.availability import available, available_runtimes
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.v2 import session as v2_session
from resnext.runtimes.v2.http_transport import HttpTransport
from resnext.runtimes.v2.session import V2Session
from resnext.verify.batches.integrity import artifact_integrity
from resnext.verify.check import check
from resnext.weights.spec import load_weights

Serve = Callable[[V2Server], AbstractContextManager[V2Server]]
OVER = {"http": serving, "grpc": serving_grpc}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(
        load_weights("digits"), tmp_path_factory.mktemp("v2") / "digits", check=False
    )


@pytest.fixture(scope="module")
def run(artifact: Artifact) -> Iterator[Run]:
    with open_session(artifact, "ort-cpu", options=SessionOptions(threads=1)) as session:
        yield lambda images: session.run({"input": images})["logits"]


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((8, 1, 8, 8), np.float32)


@pytest.mark.parametrize("triton", [True, False], ids=["triton", "bare"])
@pytest.mark.parametrize("over", OVER)
def test_a_server_gives_the_artifacts_answers_bit_by_bit(
    over: str, triton: bool, artifact: Artifact, run: Run, images: NDArray[Any]
) -> None:
    with (
        OVER[over](V2Server(artifact.manifest, run, triton=triton)) as server,
        open_session(artifact, f"v2:{server.url}") as session,
    ):
        for rows in (images, images[2:3]):
            np.testing.assert_array_equal(session.run({"input": rows})["logits"], run(rows))
            with session.bind({"input": rows}) as bound:
                bound.enqueue()
                bound.synchronize()
                np.testing.assert_array_equal(bound.fetch()["logits"], run(rows))
        delivered, counters = session.delivered(), session.counters()
    assert (delivered.device, delivered.summary(), delivered.layers) == ("server", "unknown", ())
    assert "does not say which file" in delivered.notes["artifact"]
    assert session.served == "here"
    if triton:
        assert counters is not None
        assert (counters.sent, counters.requests, counters.images) == (6, 6, 27)
        assert counters.server_ns == 6 * 100_000
        assert delivered.notes["instances"] == "2 on CPU"
    else:
        assert counters is None
        assert "does not tell" in delivered.notes["configuration"]
    form = {"http": "HTTP, binary tensors" if triton else "HTTP, tensors as JSON numbers"}
    assert delivered.notes["requests"] == form.get(over, "gRPC, binary tensors")


def test_a_connection_is_kept_for_all_requests_of_a_stream(
    artifact: Artifact, run: Run, images: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    connect = HttpTransport._connected

    def counted(self: HttpTransport) -> Any:
        opened.append(self)
        return connect(self)

    monkeypatch.setattr(HttpTransport, "_connected", counted)
    with serving(V2Server(artifact.manifest, run)) as server:
        options = SessionOptions(streams=3, url=server.url)
        with open_session(artifact, "v2", options=options) as session:
            streams = session.streams()
            assert len(streams) == 3
            for _ in range(3):
                for stream in streams:
                    stream({"input": images})
    assert len(opened) == len({*map(id, opened)}) == 3


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(
    artifact: Artifact, run: Run, images: NDArray[Any]
) -> None:
    with (
        serving(V2Server(artifact.manifest, run, fault="hangs-up")) as server,
        open_session(artifact, f"v2:{server.url}") as session,
    ):
        for _ in range(3):
            np.testing.assert_array_equal(session.run({"input": images})["logits"], run(images))
        assert server.requests == 3


def test_what_a_server_counts_late_is_waited_for(
    artifact: Artifact, run: Run, images: NDArray[Any]
) -> None:
    with (
        serving(V2Server(artifact.manifest, run, fault="counts-late")) as server,
        open_session(artifact, f"v2:{server.url}") as session,
    ):
        for _ in range(3):
            session.run({"input": images})
            counters = session.counters()
            assert counters is not None
            assert counters.requests == counters.sent


def test_a_model_that_is_loaded_again_does_not_hang_its_counters(
    artifact: Artifact, run: Run, images: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v2_session, "_COUNTED_S", 0.01)
    with (
        serving(V2Server(artifact.manifest, run)) as server,
        open_session(artifact, f"v2:{server.url}") as session,
    ):
        session.run({"input": images})
        server.requests = 0
        counters = session.counters()
        assert counters is not None
        assert (counters.sent, counters.requests) == (1, 0)


def test_streams_answer_each_its_own_request_at_once(
    artifact: Artifact, run: Run, images: NDArray[Any]
) -> None:
    with serving(V2Server(artifact.manifest, run)) as server:
        options = SessionOptions(streams=8)
        with open_session(artifact, f"v2:{server.url}", options=options) as session:
            answers: dict[int, NDArray[Any]] = {}

            def ask(index: int, stream: Callable[..., Any]) -> None:
                answers[index] = stream({"input": images[index : index + 1]})["logits"]

            threads = [
                threading.Thread(target=ask, args=each) for each in enumerate(session.streams())
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    for index in range(8):
        np.testing.assert_array_equal(answers[index], run(images[index : index + 1]))


#: Fault, error and what it says: of opening, or of a run.
FAULTS: dict[str, tuple[dict[str, Any], type[ResnextError], str]] = {
    "not ready": ({"fault": "not-ready"}, SessionFailed, r"digits is not ready on .*: READY"),
    "layout": (
        {"fault": "layout"},
        BadArtifact,
        r"takes 'input' float32 Nx8x8x1, and .* 'input' float32 Nx1x8x8",
    ),
    "input type": ({"fault": "dtype of metadata"}, BadArtifact, r"takes 'input' uint8 Nx1x8x8"),
    "digest": ({"digest": "f" * 64}, BadArtifact, r"sha256 ffffffffffff, and .* has [0-9a-f]{12}"),
    "too small": ({"max_batch": 4}, BadInput, r"takes at most 4 images in a request, not 8"),
    "type": ({"fault": "dtype"}, SessionFailed, r"sent output 'logits' as float64 .* want float32"),
    "short": ({"fault": "short"}, SessionFailed, r"float32 of shape \(8, 10\), and 316 bytes"),
    "dies": ({"fault": "dies"}, SessionFailed, r"broke off in the middle .* see the server's log"),
    "slow": ({"fault": "slow"}, SessionFailed, r"did not answer within 0.2 s"),
    "garbage": ({"fault": "garbage"}, SessionFailed, "something else than the outputs of digits"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("over", OVER)
def test_each_fault_of_a_server_is_one_line(
    over: str,
    name: str,
    artifact: Artifact,
    run: Run,
    images: NDArray[Any],
) -> None:
    changes, kind, message = FAULTS[name]
    if over == "grpc" and name == "garbage":
        pytest.skip("protobuf is parsed by gRPC itself")
    with OVER[over](V2Server(artifact.manifest, run, **changes)) as server:
        address = Address.parse(server.url)
        with pytest.raises(kind, match=message) as caught:  # noqa: SIM117  # both may raise
            with V2Session(artifact, SessionOptions(), address, "v2", infer_s=0.2) as session:
                session.run({"input": images})
        assert "\n" not in str(caught.value)
        server.released.set()


def test_numbers_that_are_too_few_are_noticed(
    artifact: Artifact, run: Run, images: NDArray[Any]
) -> None:
    with (
        serving(V2Server(artifact.manifest, run, triton=False, fault="short")) as server,
        open_session(artifact, f"v2:{server.url}") as session,
        pytest.raises(SessionFailed, match=r"shape \(8, 10\), and 79 elements"),
    ):
        session.run({"input": images})


@pytest.mark.parametrize("over", OVER)
def test_an_unknown_model_is_refused_with_the_names_of_those_there_are(
    over: str, artifact: Artifact, run: Run
) -> None:
    with OVER[over](V2Server(artifact.manifest, run)) as server:
        url = server.url.replace("digits", "digit")
        with pytest.raises(SessionFailed, match=r"no model 'digit'; it has digits, other; name"):
            open_session(artifact, f"v2:{url}")
        with pytest.raises(SessionFailed, match=r"no version 7 of digits .*; it has 1; name"):
            open_session(artifact, f"v2:{server.url}/versions/7")


@pytest.mark.parametrize("scheme", OVER)
def test_a_server_that_is_not_there_is_said_at_once(scheme: str, artifact: Artifact) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(SessionFailed, match=rf"no server at {scheme}://127.0.0.1:{port}"):
            open_session(artifact, f"v2:{scheme}://127.0.0.1:{port}/digits")


def test_a_port_that_speaks_something_else_is_said(artifact: Artifact, run: Run) -> None:
    with serving_grpc(V2Server(artifact.manifest, run)) as server:
        url = server.url.replace("grpc", "http")
        with pytest.raises(SessionFailed, match=r"something else than HTTP; name the .* gRPC port"):
            open_session(artifact, f"v2:{url}")


#: What a careless client sends: as this session sees it, and as the server does.
CARELESS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], str, str]] = {
    "NHWC": (
        lambda images: images.transpose(0, 2, 3, 1).copy(),
        "shape 8x8x8x1, want Nx1x8x8",
        "unexpected shape",
    ),
    "uint8": (lambda images: images.astype(np.uint8), "dtype uint8, want float32", "data-type"),
    "batch 16": (
        lambda images: np.concatenate([images, images]),
        "takes at most 8 images in a request, not 16",
        "batch-size must be <= 8",
    ),
}


@pytest.mark.parametrize("name", CARELESS)
@pytest.mark.parametrize("over", OVER)
def test_a_careless_client_is_refused_here_and_by_the_server(
    over: str, name: str, artifact: Artifact, run: Run, images: NDArray[Any]
) -> None:
    make, ours, theirs = CARELESS[name]
    wrong = make(images)
    with (
        OVER[over](V2Server(artifact.manifest, run)) as server,
        open_session(artifact, f"v2:{server.url}") as session,
    ):
        assert isinstance(session, V2Session)
        with pytest.raises(BadInput, match=ours):
            session.run({"input": wrong})
        assert server.requests == 0
        raw = session._transports[0]
        with pytest.raises(SessionFailed, match=rf"refused the request \(.*{theirs}"):
            raw.infer({"input": wrong}, ("logits",))
        session.run({"input": images})  # the connection still works


def test_batch_ranges_are_the_artifacts_cut_to_the_servers(artifact: Artifact, run: Run) -> None:
    with (
        serving(V2Server(artifact.manifest, run, max_batch=5)) as server,
        open_session(artifact, f"v2:{server.url}") as session,
    ):
        assert [str(each) for each in session.batch_ranges] == ["1..5"]
        assert (session.takes(5), session.takes(6)) == (True, False)


def test_parity_and_batch_integrity_go_through_the_server(artifact: Artifact, run: Run) -> None:
    sha256 = artifact.manifest.file_sha256
    with serving(V2Server(artifact.manifest, run, digest=sha256)) as server:
        outcome = check(artifact, runtime=f"v2:{server.url}", images=7)
        assert outcome.passed, outcome.failures
        with open_session(artifact, f"v2:{server.url}") as session:
            assert session.confirms_artifact
            integrity = artifact_integrity(session, artifact.manifest, quick=True)
            assert integrity.passed, integrity.failures


def test_wrong_rows_of_a_server_are_found(artifact: Artifact, run: Run) -> None:
    def rolled(images: NDArray[Any]) -> NDArray[Any]:
        return np.roll(run(images), 1, axis=0)

    with serving(V2Server(artifact.manifest, rolled)) as server:
        outcome = check(artifact, runtime=f"v2:{server.url}", images=7)
        assert not outcome.passed
        with open_session(artifact, f"v2:{server.url}") as session:
            assert not artifact_integrity(session, artifact.manifest, quick=True).passed


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://host/digits", "scheme 'ftp'"),
        ("127.0.0.1:8000/digits", "scheme '127.0.0.1'|scheme ''"),
        ("http:///digits", "names no host"),
        ("http://host:8000", "path is not the name"),
        ("http://host:8000/a/b", "path is not the name"),
        ("http://host:99999/digits", "out of range"),
        ("http://me:secret@host/digits", "user"),
        ("http://host/digits?x=1", "query"),
        ("http://host/..%2fx", "path is not the name"),
        ("", "scheme ''"),
    ],
)
def test_a_malformed_url_says_what_is_wrong(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        Address.parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "server", "model", "version"),
    [
        ("http://host:8000/digits", "http://host:8000", "digits", ""),
        ("https://host/digits/versions/3", "https://host:443", "digits", "3"),
        ("grpc://[::1]/a.b-c_1", "grpc://[::1]:8001", "a.b-c_1", ""),
        ("http://host/v2/models/digits", "http://host:80", "digits", ""),
        ("http://gate/ns/x/v2/models/digits/", "http://gate:80/ns/x", "digits", ""),
    ],
)
def test_a_url_is_taken_apart(url: str, server: str, model: str, version: str) -> None:
    address = Address.parse(url)
    assert (address.server, address.model, address.version) == (server, model, version)


def test_a_served_runtime_needs_a_url_and_is_never_guessed(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="needs the URL"):
        open_session(artifact, "v2")
    with pytest.raises(UnknownName):
        open_session(artifact, "ort:http://host/digits")
    assert "v2" not in available_runtimes()
    assert available("v2") is not None
    assert available("v2:http://host/digits") is None
    assert registry.known("v2:http://host/digits")
    with pytest.raises(UsageError, match="names no host"):
        registry.known("v2:http:///digits")


def test_grpc_without_its_package_names_the_extra(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, f"{v2_session.__package__}.grpc_transport", None)
    with pytest.raises(MissingRequirement, match=r"pip install 'resnext-toolkit\[triton\]'"):
        open_session(artifact, "v2:grpc://127.0.0.1:1/digits")


def test_a_closed_session_refuses(artifact: Artifact, run: Run, images: NDArray[Any]) -> None:
    with serving(V2Server(artifact.manifest, run)) as server:
        session = open_session(artifact, f"v2:{server.url}")
        bound = session.bind({"input": images})
        session.close()
        session.close()
        for call in (lambda: session.run({"input": images}), bound.enqueue, session.counters):
            with pytest.raises(SessionFailed, match="closed"):
                call()


def test_the_command_line_proves_a_server(artifact: Artifact, run: Run) -> None:
    from click.testing import CliRunner

    from resnext.cli.parity import main

    with serving(V2Server(artifact.manifest, run)) as server:
        common = ["--artifact", str(artifact.directory), "--backend"]
        done = CliRunner().invoke(main, [*common, f"v2:{server.url}"])
        assert (done.exit_code, done.stdout[:4]) == (0, "PASS"), done.output
        rows = CliRunner().invoke(main, [*common, f"v2:{server.url}", "--batch-integrity"])
        assert rows.exit_code == 0, rows.output
        sealed = CliRunner().invoke(main, [*common, f"v2:{server.url}", "--verdict"])
        assert sealed.exit_code == 2
        assert "verdict" in sealed.stderr
    wrong = CliRunner().invoke(main, [*common, "v2:http://host"])
    assert wrong.exit_code == 2
    assert "path is not the name of a model" in wrong.stderr
