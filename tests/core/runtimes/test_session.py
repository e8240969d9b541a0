from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.delivered import layer_share
from resnext.artifact.specs import BatchRange, TensorSpec, numpy_dtype
from resnext.errors import BadInput, SessionFailed
from resnext.machine.cuda_driver import Gpu, probe_driver
from resnext.runtimes.session import Delivered, DeliveredLayer, Session
from resnext.testing import FakeSession

Images = NDArray[np.float32]


def double(images: NDArray[Any]) -> NDArray[Any]:
    return images * 2


@pytest.fixture
def session() -> FakeSession:
    return FakeSession(double, (2,), 2)


@pytest.fixture
def images() -> Images:
    return np.arange(6, dtype=np.float32).reshape(3, 2)


def test_the_fake_is_a_whole_session() -> None:
    assert issubclass(FakeSession, Session)
    assert not FakeSession.__abstractmethods__


def test_an_incomplete_session_cannot_be_made() -> None:
    class Half(Session):
        backend = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract, call-arg]  # that it cannot be made is the point


def test_run_gives_named_outputs(session: FakeSession, images: Images) -> None:
    outputs = session.run({"input": images})
    assert list(outputs) == [spec.name for spec in session.outputs]
    assert np.array_equal(outputs["logits"], images * 2)


@pytest.mark.parametrize("function", [double, None])
def test_a_result_belongs_to_its_caller(images: Images, function: Any) -> None:
    session = FakeSession(function, (2,), 2)
    first = session.run({"input": images})["logits"]
    kept = first.copy()
    first[:] = 99
    second = session.run({"input": images})["logits"]
    assert np.array_equal(second, kept)
    session.run({"input": images + 1})
    assert np.array_equal(second, kept)


def test_bind_copies_so_that_the_caller_may_reuse_the_array(
    session: FakeSession, images: Images
) -> None:
    want = images * 2
    bound = session.bind({"input": images})
    images[:] = 0
    bound.enqueue()
    bound.synchronize()
    assert np.array_equal(bound.fetch()["logits"], want)


def test_fetch_gives_copies(session: FakeSession, images: Images) -> None:
    bound = session.bind({"input": images})
    bound.enqueue()
    bound.fetch()["logits"][:] = 99
    assert np.array_equal(bound.fetch()["logits"], images * 2)


@pytest.mark.parametrize("function", [double, None])
def test_outputs_have_as_many_rows_as_inputs(images: Images, function: Any) -> None:
    session = FakeSession(function, (2,), 2)
    assert session.run({"input": images})["logits"].shape == (3, 2)
    bound = session.bind({"input": images})
    bound.enqueue()
    assert bound.fetch()["logits"].shape == (3, 2)


BAD_INPUTS: list[tuple[dict[str, NDArray[Any]], str]] = [
    ({}, "inputs must be named ['input'], got []"),
    ({"images": np.zeros((1, 2), np.float32)}, "inputs must be named ['input'], got ['images']"),
    (
        {"input": np.zeros((1, 2), np.float32), "more": np.zeros(1)},
        "inputs must be named ['input'], got ['input', 'more']",
    ),
    ({"input": np.zeros((1, 2))}, "input 'input' has dtype float64, want float32"),
    ({"input": np.zeros((1, 2), np.uint8)}, "input 'input' has dtype uint8, want float32"),
    ({"input": np.zeros((1, 3), np.float32)}, "input 'input' has shape 1x3, want Nx2"),
    ({"input": np.zeros((1, 2, 1), np.float32)}, "input 'input' has shape 1x2x1, want Nx2"),
    ({"input": np.zeros((2,), np.float32)}, "input 'input' has shape 2, want Nx2"),
    ({"input": np.zeros((), np.float32)}, "input 'input' has shape scalar, want Nx2"),
    ({"input": np.zeros((0, 2), np.float32)}, "input 'input' has shape 0x2, want Nx2"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS)
@pytest.mark.parametrize("method", ["check_inputs", "bind", "run"])
def test_inputs_that_do_not_fit_are_refused(
    session: FakeSession, inputs: dict[str, NDArray[Any]], message: str, method: str
) -> None:
    with pytest.raises(BadInput) as caught:
        getattr(session, method)(inputs)
    assert str(caught.value) == message
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("method", ["check_inputs", "bind", "run"])
def test_batches_outside_the_artifact_s_ranges_are_refused(method: str) -> None:
    ranges = (BatchRange.parse("2:4:8"), BatchRange.parse("32"))
    session = FakeSession(double, (2,), 2, ranges)
    for size in (2, 8, 32):
        getattr(session, method)({"input": np.zeros((size, 2), np.float32)})
    for size in (1, 9, 31, 33):
        with pytest.raises(BadInput) as caught:
            getattr(session, method)({"input": np.zeros((size, 2), np.float32)})
        assert str(caught.value) == (
            f"fake: batch {size} is not among the artifact's, 2..8, 32; run it in batches that it"
            " takes, or export it with another `batch`"
        )
    with pytest.raises(BadInput, match="has shape 9x3, want Nx2"):  # an image, not a batch of 9
        getattr(session, method)({"input": np.zeros((9, 3), np.float32)})


def test_a_fixed_batch_is_held(images: Images) -> None:
    spec = TensorSpec(name="input", dtype="float32", shape=(3, 2))
    spec.check(images)
    with pytest.raises(BadInput, match="shape 2x2, want 3x2"):
        spec.check(images[:2])


def test_a_context_manager_closes_and_lets_errors_through(session: FakeSession) -> None:
    seen: list[bool] = []
    with session as entered:
        seen.append(entered is session)
        seen.append(session.closed)
    seen.append(session.closed)
    assert seen == [True, False, True]
    other = FakeSession()
    with pytest.raises(ZeroDivisionError), other:
        raise ZeroDivisionError
    assert vars(other)["closed"]
    other.close()


def test_a_session_is_timed_on_the_host_and_without_a_stream_unless_it_says_otherwise(
    session: FakeSession,
) -> None:
    bound = session.bind({"input": np.zeros((1, 2), np.float32)})
    assert bound.boundary == "host"
    assert bound.cuda_stream is None


def test_what_is_bound_keeps_its_input_while_another_is_bound(
    session: FakeSession, images: Images
) -> None:
    first = session.bind({"input": images})
    second = session.bind({"input": images + 1})
    for bound, want in ((first, images * 2), (second, images * 2 + 2)):
        bound.enqueue()
        assert np.array_equal(bound.fetch()["logits"], want)
    second.close()
    first.enqueue()
    assert np.array_equal(first.fetch()["logits"], images * 2)


@pytest.mark.parametrize("closing", ["bound", "session", "with"])
@pytest.mark.parametrize("method", ["enqueue", "synchronize", "fetch"])
def test_after_close_nothing_that_was_bound_runs(
    session: FakeSession, images: Images, closing: str, method: str
) -> None:
    bound = session.bind({"input": images})
    getattr(bound, method)()
    if closing == "with":
        with bound as entered:
            assert entered is bound
    elif closing == "bound":
        bound.close()
    else:
        session.close()
    bound.close()
    calls = session.calls
    with pytest.raises(SessionFailed, match="fake: the bound input is closed"):
        getattr(bound, method)()
    assert session.calls == calls
    if closing == "session":
        with pytest.raises(SessionFailed, match="fake: the session is closed"):
            session.bind({"input": images})


def test_calling_a_session_is_running_it_on_its_one_input(
    session: FakeSession, images: Images
) -> None:
    assert np.array_equal(session(images), images * 2)
    with pytest.raises(BadInput, match="has shape 3x1, want Nx2"):
        session(images[:, :1])


def test_delivered_counts_the_layers_that_do_the_work() -> None:
    layers = (
        DeliveredLayer("a", "Conv", "float16", "cuda"),
        DeliveredLayer("b", "Conv", "float16", "cuda"),
        DeliveredLayer("c", "Gemm", "float32", "cpu"),
        DeliveredLayer("d", "Relu", "float32", "cpu"),
    )
    delivered = Delivered("cuda:0", layers)
    assert layer_share(delivered, "float16") == pytest.approx(2 / 3)
    assert layer_share(delivered, "float16", ("Conv",)) == 1
    assert layer_share(delivered, "int8") == 0
    assert delivered.summary() == "2 float16 on cuda, 1 float32 on cpu"
    assert layer_share(Delivered("cpu", ()), "float32") == 0
    assert Delivered("cpu", ()).summary() == "none"


# ---- the driver


def test_a_library_that_does_not_exist_is_said_so() -> None:
    driver = probe_driver("libdoesnotexist-7.so.1")
    assert driver.problem is not None
    assert "not installed" in driver.problem
    assert (driver.devices, driver.cuda_version) == (0, None)


def test_a_library_that_is_no_driver_is_a_problem_and_no_crash() -> None:
    driver = probe_driver("libc.so.6")
    assert driver.problem is not None
    assert driver.devices == 0


class FakeCuda:
    """libcuda's entry points with chosen answers; its devices are of compute capability 8.9."""

    def __init__(self, init: int, count_status: int, count: int) -> None:
        self._init, self._count_status, self._count = init, count_status, count

    def cuInit(self, _flags: int) -> int:  # noqa: N802  # the driver's name
        return self._init

    def cuDeviceGetCount(self, pointer: Any) -> int:  # noqa: N802  # the driver's name
        pointer._obj.value = self._count
        return self._count_status

    def cuDriverGetVersion(self, pointer: Any) -> int:  # noqa: N802  # the driver's name
        pointer._obj.value = 13010
        return 0

    def cuDeviceGet(self, pointer: Any, index: int) -> int:  # noqa: N802  # the driver's name
        pointer._obj.value = index
        return 0

    def cuDeviceGetName(self, buffer: Any, _size: int, device: Any) -> int:  # noqa: N802  # the driver's name
        buffer.value = f"GPU {device.value}".encode()
        return 0

    def cuDeviceGetAttribute(self, pointer: Any, attribute: int, _device: Any) -> int:  # noqa: N802  # likewise
        pointer._obj.value = {75: 8, 76: 9}[attribute]
        return 0


@pytest.mark.parametrize(
    ("answers", "problem", "devices"),
    [
        ((0, 0, 2), None, 2),
        ((100, 0, 2), "sees no device", 0),
        ((803, 0, 2), "cuInit failed with CUDA error 803", 0),
        ((0, 0, 0), "sees no device", 0),
        ((0, 3, 1), "sees no device", 0),
    ],
)
def test_what_the_driver_answers_is_told(
    monkeypatch: pytest.MonkeyPatch,
    answers: tuple[int, int, int],
    problem: str | None,
    devices: int,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: FakeCuda(*answers))
    driver = probe_driver()
    assert driver.devices == devices
    if problem is None:
        assert driver.problem is None
        assert driver.cuda_version == "13.1"
        assert driver.gpus == (Gpu("GPU 0", "8.9"), Gpu("GPU 1", "8.9"))
    else:
        assert problem in (driver.problem or "")


def test_float32_images_are_converted_only_where_an_input_is_narrower() -> None:
    images = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    for name in ("float16", "bfloat16"):
        spec = TensorSpec(name="x", dtype=name, shape=(None, 3))
        given = spec.cast(images)
        assert given.dtype == numpy_dtype(name)
        spec.check(given)
        with pytest.raises(BadInput, match="has dtype float32"):
            spec.check(images)
    for name in ("float32", "uint8"):
        assert TensorSpec(name="x", dtype=name, shape=(None, 3)).cast(images) is images
    pixels = np.zeros((2, 3), np.uint8)
    assert TensorSpec(name="x", dtype="float16", shape=(None, 3)).cast(pixels) is pixels
