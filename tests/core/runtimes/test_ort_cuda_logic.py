"""The logic of the CUDA session of ONNX Runtime, run on the CPU provider: binding, rebinding,
errors, options.

What only a GPU can show (device times, captured graphs) is in tests/gpu.
"""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.artifact.specs import numpy_dtype
from resnext.errors import BadInput, SessionFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import PRECISIONS, Precision
from resnext.runtimes.ort import cuda_probe, device_bound
from resnext.runtimes.ort import session as ort_session
from resnext.runtimes.ort.cuda import CudaProvider, provider_settings
from resnext.runtimes.ort.device_bound import DeviceBound
from resnext.runtimes.ort.session import OrtSession
from resnext.runtimes.registry import SessionOptions
from resnext.verify.eager import reference_logits
from resnext.verify.parity import compare
from resnext.weights.spec import Weights, load_weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("logic") / "artifact")


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 12))


class CpuOrtValue:
    """Makes host values if the session requests device values."""

    @staticmethod
    def ortvalue_from_numpy(array: Any, device: str, index: int) -> Any:
        assert (device, index) == ("cuda", 0)
        return ort.OrtValue.ortvalue_from_numpy(array, "cpu", 0)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: Any, dtype: Any, device: str, index: int) -> Any:
        assert (device, index) == ("cuda", 0)
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)


class OnTheCpu:
    """onnxruntime, with the CPU provider in the place of CUDA's; remembers what sessions were asked
    for.
    """

    OrtValue = CpuOrtValue
    RunOptions = ort.RunOptions

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, str], str]] = []


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> OnTheCpu:
    fake = OnTheCpu()
    real = ort.InferenceSession

    def make(path: str, options: Any, providers: Any, **settings: Any) -> Any:
        ((provider, wanted),) = providers
        assert provider == "CUDAExecutionProvider"
        assert settings == {"enable_fallback": 0}
        fake.asked.append(
            (wanted, options.get_session_config_entry("session.disable_cpu_ep_fallback"))
        )
        plain = ort.SessionOptions()
        plain.enable_profiling, plain.profile_file_prefix = (
            options.enable_profiling,
            options.profile_file_prefix,
        )
        session = real(path, plain, providers=["CPUExecutionProvider"])
        monkeypatch.setattr(session, "get_providers", lambda: ["CUDAExecutionProvider"])
        return session

    monkeypatch.setattr(ort_session.ort, "InferenceSession", make)  # type: ignore[attr-defined]  # the module itself
    monkeypatch.setattr(device_bound, "ort", fake)
    monkeypatch.setattr(cuda_probe, "preload_libraries", lambda: None)
    monkeypatch.setattr(device_bound, "torch_stream", lambda: None)
    return fake


def opened(artifact: Artifact, *, graph: bool = True) -> OrtSession:
    return OrtSession(CudaProvider(artifact, SessionOptions(cuda_graph=graph), "ort-cuda"))


@pytest.mark.parametrize("graph", [True, False])
def test_bound_runs_and_host_runs_are_right_and_leave_each_other_alone(
    runtime: OnTheCpu, graph: bool, artifact: Artifact, weights: Weights, images: Any
) -> None:
    reference = reference_logits(weights, images)
    with opened(artifact, graph=graph) as session:
        for rows in (slice(0, 8), slice(8, 12)):
            bound = session.bind({"input": images[rows]})
            assert bound.boundary == ("graph" if graph else "device")
            assert compare(reference[2:5], session.run({"input": images[2:5]})["logits"]).passed
            bound.enqueue()
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed
    assert len(runtime.asked) == (3 if graph else 1)  # each bind with a graph has its own session


def test_options_keep_float32_exact_and_refuse_the_cpu(
    runtime: OnTheCpu, artifact: Artifact, images: Any
) -> None:
    with opened(artifact) as session:
        session.bind({"input": images[:2]})
        notes = session.delivered().notes
    assert notes["cuda graph"] == "on"
    assert notes["convolution kernels"] == "cuDNN's guess (heuristic mode B), none of them timed"
    assert all(
        settings["use_tf32"] == "0" and refuses == "1" for settings, refuses in runtime.asked
    )
    assert [settings.get("enable_cuda_graph") for settings, _ in runtime.asked] == [None, "1", None]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensor_cores_are_left_to_every_precision_but_float32(precision: Precision) -> None:
    common = {"device_id": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
    assert provider_settings(precision) == (
        common | {"use_tf32": "0"} if precision == "fp32" else common
    )


def test_a_float16_session_asks_for_float16s_settings(
    runtime: OnTheCpu, artifact: Artifact, images: Any
) -> None:
    half = replace(artifact, manifest=artifact.manifest.model_copy(update={"precision": "fp16"}))
    with opened(half) as session:
        session.bind({"input": images[:2]})
    assert [settings.get("use_tf32") for settings, _ in runtime.asked] == [None, None]


def knows(library: str, name: str) -> bool:
    """Whether a provider library of ONNX Runtime contains ``name`` as (the end of) a string."""
    path = Path(ort.__file__).parent / "capi" / library
    if not path.exists():
        pytest.skip(f"this onnxruntime has no {library}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(name.encode() + b"\0") >= 0


def test_provider_options_are_ones_that_the_provider_has(
    runtime: OnTheCpu, artifact: Artifact, images: Any
) -> None:
    library = (  # which refuses an option that it does not know, on a GPU only
        "libonnxruntime_providers_cuda.so"
    )
    with opened(artifact) as session:
        session.bind({"input": images[:2]})
    asked = {"user_compute_stream"}.union(*(settings for settings, _ in runtime.asked))
    assert len(asked) == 5
    assert [name for name in sorted(asked) if not knows(library, name)] == []
    assert not knows(library, "use_tf64")
    assert knows(library, provider_settings("fp32")["cudnn_conv_algo_search"])


def test_a_stream_is_given_by_an_option_of_the_providers_own(
    runtime: OnTheCpu, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_bound, "torch_stream", lambda: SimpleNamespace(cuda_stream=7))
    opened(artifact).close()
    assert runtime.asked[0][0]["user_compute_stream"] == "7"


@pytest.mark.usefixtures("runtime")
def test_a_failed_bind_leaves_what_was_bound_alone(
    artifact: Artifact, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(artifact) as session:
        bound = session.bind({"input": images[1:3]})
        before = bound.fetch()["logits"]
        with pytest.raises(BadInput):
            session.bind({"input": np.zeros((1, 2, 8, 8), np.float32)})

        def breaks(_self: Any) -> None:
            raise RuntimeError("CUDA failure 2: out of memory")

        with monkeypatch.context() as broken:
            broken.setattr(DeviceBound, "_launch", breaks)
            with pytest.raises(SessionFailed, match="CUDA failure 2"):
                session.bind({"input": images[:1]})
        bound.enqueue()
        np.testing.assert_array_equal(bound.fetch()["logits"], before)


# ---- what stands in for ONNX Runtime must not be kinder


@pytest.mark.parametrize("dtype", ort_session._DTYPES.values())
def test_a_type_that_sessions_take_is_one_that_a_value_can_hold(dtype: str) -> None:
    value = ort.OrtValue.ortvalue_from_shape_and_type([2], np.dtype(dtype), "cpu", 0)
    spec = ort_session._spec(SimpleNamespace(name="x", type=value.data_type(), shape=[2]))
    assert (spec.dtype, value.numpy().dtype) == (dtype, np.dtype(dtype))


def test_a_type_that_no_value_can_hold_is_refused_in_one_line() -> None:
    with pytest.raises(RuntimeError, match="OrtValue"):  # as the library itself does
        ort.OrtValue.ortvalue_from_numpy(np.zeros(2, numpy_dtype("bfloat16")), "cpu", 0)
    with pytest.raises(
        UsageError,
        match=r"^'input' is a tensor\(bfloat16\), .*; export the artifact without `io` native$",
    ):
        ort_session._spec(
            SimpleNamespace(name="input", type="tensor(bfloat16)", shape=["N", 1, 8, 8])
        )
