"""What GPU acceptance lets pass: backends that are left out with a reason, and no test that was skipped without one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resnext import backends, trt_flavour
from resnext.backends import ort_trt_libraries
from resnext.cuda_driver import Driver, Gpu
from resnext.errors import MissingRequirement

ROOT = Path(__file__).parents[2]
H200 = Driver(None, 1, "13.0", (Gpu("NVIDIA H200", "9.0"),))
SUMMARY = """\
.....ssss
=========================== short test summary info ============================
SKIPPED [10] tests/gpu/test_engines.py: TensorRT is not installed; TensorRT-RTX is not installed
SKIPPED [2] tests/gpu/test_engines.py:149: TensorRT is not installed; TensorRT-RTX is not installed
SKIPPED [2] tests/gpu/test_ort_trt.py:36: needs TensorRT 10, and it is not found
SKIPPED [1] tests/gpu/test_cuda_sessions.py:40: this onnxruntime has no CUDA provider that loads
30 passed, 15 skipped in 70.00s
"""


@pytest.fixture(scope="module")
def accept() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_accept", ROOT / "benchmarks" / "gpu_accept.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_skips_are_read_from_pytests_summary(accept: ModuleType) -> None:
    skipped = accept.skipped_tests(SUMMARY)
    assert [line.partition(":")[0].rpartition("/")[2] for line in skipped] == [
        "test_engines.py", "test_engines.py", "test_ort_trt.py", "test_cuda_sessions.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("left_out", "unexpected"),
    [
        ({"trt": "a", "trt-rtx": "b", "ort-trt": "needs TensorRT 10, and it is not found"}, ["cuda_sessions"]),
        ({"trt": "a", "ort-trt": "needs TensorRT 10, and it is not found"}, ["engines", "engines", "cuda_sessions"]),
        ({"trt": "a", "trt-rtx": "b", "ort-trt": "no GPU"}, ["ort_trt", "cuda_sessions"]),
        ({}, ["engines", "engines", "ort_trt", "cuda_sessions"]),
    ],
)
def test_a_skip_that_no_left_out_backend_accounts_for_is_unexpected(
    accept: ModuleType, left_out: dict[str, str], unexpected: list[str]
) -> None:
    found = accept.unexpected_skips(accept.skipped_tests(SUMMARY), left_out)
    assert [line.partition("test_")[2].partition(".py")[0] for line in found] == unexpected


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def make(**versions: str | None) -> None:
        for name, kind in (("TensorRT", "trt"), ("TensorRTRTX", "rtx")):
            monkeypatch.setattr(getattr(trt_flavour, name), "version", versions.get(kind))

        def missing(*_given: Any) -> Any:
            raise MissingRequirement("the library")

        monkeypatch.setattr(ort_trt_libraries, "load_tensorrt10", (lambda: "10.16.1") if "ort" in versions else missing)
        monkeypatch.setattr(ort_trt_libraries, "plugin_device", missing)
        monkeypatch.setattr(backends, "compiles_packages", lambda _device: "toolkit" in versions)

    return make


def test_backends_are_left_out_with_the_reason(accept: ModuleType, machine: Callable[..., None]) -> None:
    machine(trt="11.4.0", rtx="1.7.1", ort="1.31", toolkit="13.0")
    assert accept.left_out_backends(H200) == {
        "trt-rtx": "TensorRT-RTX does not take NVIDIA H200 (compute capability 9.0)",
        "ort-trt-rtx": "the library",
    }
    machine()
    left_out = accept.left_out_backends(H200)
    assert (left_out["trt"], left_out["trt-rtx"]) == ("TensorRT is not installed", "TensorRT-RTX is not installed")
    assert (left_out["ort-trt"], left_out["ort-trt-rtx"]) == ("the library", "the library")
    assert left_out["pt2"] == "packages need a C++ compiler and the CUDA toolkit (CUDA_HOME)"


def test_without_a_driver_every_engine_backend_is_left_out(accept: ModuleType) -> None:
    left_out = accept.left_out_backends(Driver("no driver"))
    assert left_out == dict.fromkeys(("trt", "trt-rtx", "ort-trt", "ort-trt-rtx"), "no driver")


def test_each_precision_is_measured_where_a_backend_runs_it(accept: ModuleType) -> None:
    runs = accept.runs_for(("torch", "ort-cuda"))
    assert runs == {"fp32": ("torch", "ort-cuda"), "fp16": ("torch", "ort-cuda"), "bf16": ("torch",)}
    assert accept.runs_for(("torch", "trt"))["fp8"] == ("trt",)
