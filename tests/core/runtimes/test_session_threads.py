"""One number of threads for every runtime, and streams that share it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.machine.threads import ThreadBudget, own_affinity
from resnext.runtimes import registry
from resnext.runtimes.ort import provider
from resnext.runtimes.registry import RUNTIMES, SessionOptions, check_streams, open_session
from resnext.testing import FakeSession
from resnext.weights.spec import Weights, load_weights

ON_CPU = ("torch", "torch-folded", "ort", "ort-cpu", "onnx-reference", "openvino")
two_cpus = pytest.mark.skipif(len(own_affinity()) < 2, reason="needs two CPUs")


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("threads") / "onnx", check=False)


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((2, 1, 8, 8), np.float32)


@pytest.fixture
def budget_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = ThreadBudget(2, "planted")
    monkeypatch.setattr("resnext.runtimes.registry.thread_budget", lambda: budget)


@two_cpus
@pytest.mark.usefixtures("budget_of_two")
@pytest.mark.parametrize(("threads", "expected"), [(None, "2"), (1, "1")])
@pytest.mark.parametrize("name", ON_CPU)
def test_every_runtime_has_the_budget_or_the_requested_threads(
    name: str, threads: int | None, expected: str, digits: Weights, artifact: Artifact, images: Any
) -> None:
    subject = digits if RUNTIMES[name].live else artifact
    options = SessionOptions("cpu", threads, memory_format="nchw")
    with open_session(subject, name, options=options) as session:
        if RUNTIMES[name].live:
            session.bind({"input": images})
        assert session.delivered().notes["threads"] == expected


@pytest.mark.usefixtures("budget_of_two")
def test_onnx_runtime_is_never_left_to_count_cores_itself() -> None:
    assert provider.session_options(SessionOptions()).intra_op_num_threads == 2
    assert provider.session_options(SessionOptions(threads=5)).intra_op_num_threads == 5


@pytest.mark.parametrize("change", [{"threads": 0}, {"streams": 0}])
def test_less_than_one_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be at least 1, not 0"):
        SessionOptions(**change)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize(
    ("cores", "threads", "pinned"),
    [
        (((0,), (1,)), 2, ["2"]),
        (((0, 4), (1, 5), (2, 6)), 3, ["2,6", "3,7"]),
        (((1,), (3,)), 2, ["4"]),
        (((0, 4), (1, 5), (2, 6)), 2, []),  # fewer than cores: the kernel's choice
        (((0,),), 1, []),
    ],
)
def test_onnx_runtime_s_threads_are_pinned_as_it_pins_them_itself(
    cores: tuple[tuple[int, ...], ...],
    threads: int,
    pinned: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provider, "physical_cores", lambda: tuple(map(frozenset, cores)))
    native = provider.session_options(SessionOptions(threads=threads))
    assert native.intra_op_num_threads == threads
    try:
        setting = native.get_session_config_entry("session.intra_op_thread_affinities")
    except RuntimeError:  # not set
        setting = ""
    assert [part for part in setting.split(";") if part] == pinned


@two_cpus
@pytest.mark.parametrize("name", ["ort-cpu", "openvino"])
def test_streams_share_the_threads_and_give_what_one_gives(
    name: str, artifact: Artifact, images: NDArray[np.float32]
) -> None:
    inputs = {"input": images}
    with open_session(artifact, name, options=SessionOptions("cpu", 2)) as one:
        one.bind(inputs)
        expected = one.run(inputs)["logits"]
        assert len(one.streams()) == 1
    with open_session(artifact, name, options=SessionOptions("cpu", 2, streams=2)) as session:
        with session.bind(inputs) as bound:
            np.testing.assert_allclose(bound.fetch()["logits"], expected, atol=1e-5)
        together, results = threading.Barrier(2, timeout=10), dict[int, Any]()

        def run(stream: int) -> None:
            together.wait()
            for _ in range(50):
                results[stream] = session.streams()[stream](inputs)["logits"]

        streams = [threading.Thread(target=run, args=(stream,)) for stream in range(2)]
        for each in streams:
            each.start()
        for each in streams:
            each.join()
        for logits in (*results.values(), session.run(inputs)["logits"]):
            np.testing.assert_allclose(logits, expected, atol=1e-5)
        assert len(results) == 2
        notes = session.delivered().notes
        assert notes["threads"] == "2"
        assert notes["streams"].startswith("2")


class Opener:
    """In place of a runtime: opens fakes, and fails after ``most`` of them."""

    def __init__(self, most: int = 9) -> None:
        self.opened: list[FakeSession] = []
        self.shares: list[SessionOptions] = []
        self._most = most

    def open_session(self, _subject: object, share: SessionOptions, _name: str) -> FakeSession:
        if len(self.opened) == self._most:
            raise UsageError("planted")
        self.shares.append(share)
        self.opened.append(FakeSession(lambda images: images * 2, in_shape=(2,)))
        return self.opened[-1]


def test_parallel_sessions_share_the_threads_and_are_bound_and_closed_together(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = Opener()
    monkeypatch.setattr(registry, "load_door", lambda _: opener)
    inputs = {"input": np.ones((3, 2), np.float32)}
    options = SessionOptions("cpu", 7, streams=3)
    with open_session(artifact, "ort-cpu", options=options) as session:
        assert {(share.threads, share.streams) for share in opener.shares} == {(2, 1)}
        session.bind(inputs)
        for run in session.streams():
            assert run(inputs)["logits"].tolist() == [[2, 2]] * 3
        assert [one.calls for one in opener.opened] == [1, 1, 1]
    assert [one.closed for one in opener.opened] == [True] * 3


def test_sessions_that_are_open_are_closed_if_another_does_not_open(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = Opener(most=1)
    monkeypatch.setattr(registry, "load_door", lambda _: opener)
    with pytest.raises(UsageError, match="planted"):
        open_session(artifact, "ort-cpu", options=SessionOptions("cpu", 2, streams=2))
    assert opener.opened[0].closed


@pytest.mark.parametrize("name", [name for name in RUNTIMES if RUNTIMES[name].streams is None])
def test_a_runtime_of_one_request_at_a_time_refuses_streams(name: str) -> None:
    with pytest.raises(UsageError, match=f"backend '{name}' runs one request at a time"):
        check_streams(name, SessionOptions(threads=4, streams=2))
    check_streams(name, SessionOptions())


@pytest.mark.parametrize("name", ["ort", "ort-cpu", "openvino"])
def test_more_streams_than_threads_are_refused_on_a_cpu(name: str) -> None:
    with pytest.raises(UsageError, match="3 streams need 3 CPU threads, and there are 2"):
        check_streams(name, SessionOptions("cpu", threads=2, streams=3))
    check_streams(name, SessionOptions("cpu", threads=2, streams=2))
    check_streams("trt", SessionOptions("cuda", threads=1, streams=2))
