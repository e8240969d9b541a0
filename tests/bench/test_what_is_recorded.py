"""What a run says of GPU, software and device memory is what was there while it was measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from fakes.calm import calm
from resnext.machine import environment
from resnext.machine.environment import record_packages
from resnext.machine.nvml import GpuState, open_nvml
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Bound, Session
from resnext.testing import FakeSession
from resnext.verify.labeled import Labeled
from resnext.weights.spec import Weights, load_weights
from resnext_bench import memory, opening
from resnext_bench.memory import peak_memory
from resnext_bench.plan import Case, Plan
from resnext_bench.record import Row
from resnext_bench.report import markdown
from resnext_bench.result import Run
from resnext_bench.run import run_benchmark


class NVMLError(Exception):
    """What pynvml raises."""


class FakeNvml(ModuleType):
    """GPUs that clock up while something is timed on them; the one of UUID ``second`` has a clock
    of its own.
    """

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    NVMLError = NVMLError

    def __init__(self, count: int = 1, unknown: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self.busy = self.timed = False
        self.calls: list[str] = []
        answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetCount": count,
            "nvmlDeviceGetHandleByIndex": lambda index: f"GPU {index}",
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30),
            "nvmlDeviceGetName": b"A GPU",
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetClockInfo": lambda gpu, _: (
                1755 if gpu == "GPU-second" else 1980 if self.busy else 345
            ),
            "nvmlDeviceGetPowerUsage": NVMLError(),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetComputeRunningProcesses": ["this process", "another"],
            "nvmlDeviceGetCurrentClocksEventReasons": 0x1 | 0x4 | 0x40,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x8,
        }
        for name, answer in answers.items():
            if name not in unknown:
                setattr(self, name, partial(self._call, name, answer))

    def _call(self, name: str, answer: Any, *arguments: Any) -> Any:
        assert not self.timed, f"{name} in a timed stretch"
        self.calls.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer


class OnStream(FakeSession):
    """Has a stream, as sessions on a GPU have."""

    cuda_stream = 1
    boundary = "device"


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


def run_on(
    nvml: FakeNvml,
    digits: Weights,
    monkeypatch: pytest.MonkeyPatch,
    session: Callable[..., Session],
) -> Run:
    """A run of one case; the GPU is busy from its first timed run on."""

    def time_host(call: Callable[[], object], iterations: int) -> list[int]:
        nvml.busy = nvml.timed = True
        call()
        nvml.timed = False
        return [1000] * iterations

    def time_device(bound: Bound, iterations: int) -> tuple[list[int], int]:
        return time_host(bound.enqueue, iterations), 1000 * iterations

    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("resnext_bench.measure.time_device", time_device)
    monkeypatch.setattr("resnext_bench.measure.time_host", time_host)
    monkeypatch.setattr(opening, "open_session", lambda *_, **__: session(None, (1, 8, 8), 10))
    plan = Plan((Case("torch", 1),), 1e-9, 3, 0.0)
    return run_benchmark(digits, plan, options=SessionOptions(device="cpu"))


@pytest.mark.parametrize(
    ("bits", "held_down"),
    [(0x4, None), (0x1 | 0x2, None), (0x40, "hardware thermal"), (0x8 | 0x4, "hardware slowdown")],
)
def test_a_round_under_throttling_is_dropped_and_the_power_cap_is_none(
    bits: int, held_down: str | None, digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml()
    monkeypatch.setattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", lambda _: bits)
    calm(monkeypatch)
    row = run_on(nvml, digits, monkeypatch, OnStream).rows[0]
    causes = {f"GPU clocks held down ({held_down})"} if held_down else set()
    assert {why for each in row.disturbances.values() for why in each} == causes
    found = [each for each in row.findings if each.code == "disturbed-machine"]
    assert [each.severity for each in found] == ["refused"] * bool(held_down)
    assert all(f"GPU clocks held down ({held_down})" in each.message for each in found)


def test_clocks_are_those_of_every_round_and_not_of_the_idle_card(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml()
    run = run_on(nvml, digits, monkeypatch, OnStream)
    state = GpuState(
        sm_clock_mhz=1980,
        power_w=None,
        temperature_c=61,
        limits=("power cap", "hardware thermal"),
        other_processes=1,
    )
    assert run.rows[0].gpu == (state,) * 3
    assert "other processes on the GPU: 1" in run.markdown()
    assert run.environment.gpus[0].sm_clock_mhz == 345
    assert (nvml.calls.count("nvmlInit"), nvml.calls.count("nvmlShutdown")) == (1, 1)
    assert nvml.calls[-1] == "nvmlShutdown"
    assert (
        "; SM clock 1980 MHz; temperature 61 °C; clocks held down by: power cap, hardware thermal"
        in markdown(run)
    )
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_a_row_of_the_processor_says_nothing_of_a_gpu(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on(FakeNvml(), digits, monkeypatch, FakeSession)
    assert run.rows[0].gpu == ()
    assert "SM clock" not in markdown(run)


def test_a_row_of_before_there_were_clocks_still_reads() -> None:
    row = Row(backend="torch", batch=1, status="valid")
    assert Row.model_validate({k: v for k, v in row.model_dump().items() if k != "gpu"}) == row


@pytest.mark.parametrize(
    ("unknown", "clock_mhz", "limits"),
    [
        (
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            345,
            ("hardware slowdown",),
        ),  # an older library
        (("nvmlDeviceGetClockInfo",), None, ("power cap", "hardware thermal")),
    ],
)
def test_a_question_that_nvml_does_not_answer_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
    unknown: tuple[str, ...],
    clock_mhz: int | None,
    limits: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(unknown=unknown))
    with open_nvml() as nvml:
        assert nvml.state() == GpuState(
            sm_clock_mhz=clock_mhz, temperature_c=61, limits=limits, other_processes=1
        )


def test_among_several_gpus_it_is_cudas_first_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(count=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="second")
    )
    with open_nvml() as nvml:
        state = nvml.state()
        assert len(nvml.gpus()) == 2
    assert state is not None
    assert state.sm_clock_mhz == 1755


def test_without_nvml_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with open_nvml() as nvml:
        assert (nvml.gpus(), nvml.state()) == ((), None)


def module(version: str | None, *providers: str) -> SimpleNamespace:
    versioned = {} if version is None else {"__version__": version}
    return SimpleNamespace(get_available_providers=lambda: list(providers), **versioned)


BOTH = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}


@pytest.mark.parametrize(
    ("installed", "imported", "recorded"),
    [
        (BOTH, {}, BOTH),  # nobody can tell which would run
        (
            BOTH,
            {"onnxruntime": module("1.31.1", "CUDAExecutionProvider")},
            {"onnxruntime-gpu": "1.31.1"},
        ),
        (
            BOTH,
            {"onnxruntime": module("1.30.0", "CPUExecutionProvider")},
            {"onnxruntime": "1.30.0"},
        ),
        # The wheel for CUDA stays what it is on a machine whose libraries do not let its provider
        # be listed.
        (
            {"onnxruntime-gpu": "1.31.1"},
            {"onnxruntime": module("1.31.1")},
            {"onnxruntime-gpu": "1.31.1"},
        ),
        (
            {},
            {"onnxruntime": module("1.31.1", "CUDAExecutionProvider")},
            {"onnxruntime-gpu": "1.31.1"},
        ),
        (
            {"torch": "2.11.0"},
            {"torch": module("2.13.0+cu130")},
            {"torch": "2.13.0+cu130"},
        ),  # a folder hides it
        ({"torch": "2.11.0"}, {"torch": module(None)}, {"torch": "2.11.0"}),
        ({"torch": "2.11.0"}, {}, {"torch": "2.11.0"}),
        ({}, {}, {}),
    ],
)
def test_versions_are_those_of_what_ran(
    monkeypatch: pytest.MonkeyPatch,
    installed: dict[str, str],
    imported: dict[str, Any],
    recorded: dict[str, str],
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(environment, "version", version)
    monkeypatch.setattr(environment, "sys", SimpleNamespace(modules=imported))
    assert record_packages() == recorded


def test_versions_are_asked_after_sessions_were_opened(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opens(*_: Any, **__: Any) -> Session:
        monkeypatch.setitem(sys.modules, "openvino", module("of the module"))
        return FakeSession(None, (1, 8, 8), 10)

    monkeypatch.setattr(opening, "open_session", opens)
    run = run_benchmark(
        digits, Plan((Case("torch", 1),), 1e-9, 1, 0.0), options=SessionOptions(device="cpu")
    )
    assert run.environment.packages["openvino"] == "of the module"


def test_recording_versions_imports_nothing() -> None:
    script = (
        "import sys\n"
        "from resnext.machine.environment import record_packages\n"
        "before = set(sys.modules)\n"
        "assert 'torch' in record_packages()\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


MB = 1_000_000


@dataclass
class FakeCuda:
    """PyTorch's allocator on a device that something else uses as well."""

    used: int = 1000 * MB
    live: int = 0
    cached: int = 0
    peak: int = 0
    loaded: list[str] = field(default_factory=list)

    def take(self, size: int) -> None:
        from_cache = min(size, self.cached)
        self.cached -= from_cache
        self.used += size - from_cache
        self.live += size
        self.peak = max(self.peak, self.live)

    def free(self, size: int) -> None:
        self.live -= size
        self.cached += size

    def empty_cache(self) -> None:
        self.used -= self.cached
        self.cached = 0

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.live

    def load_kernels(self) -> None:
        if not self.loaded:
            self.loaded.append("kernels")
            self.used += 300 * MB


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    device = FakeCuda()
    for name, fake in {
        "is_available": lambda: True,
        "mem_get_info": lambda: (80_000 * MB - device.used, 80_000 * MB),
        "memory_allocated": lambda: device.live,
        "max_memory_allocated": lambda: device.peak,
        "empty_cache": device.empty_cache,
        "reset_peak_memory_stats": device.reset_peak_memory_stats,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(memory, "_load_kernels", device.load_kernels)
    return device


def in_block(does: Callable[[], None]) -> int | None:
    with peak_memory(cuda=True) as peak:
        does()
    return peak.device_bytes


def test_the_cache_that_earlier_cases_left_does_not_count_against_the_next(cuda: FakeCuda) -> None:
    def first() -> None:
        cuda.take(500 * MB)
        cuda.free(400 * MB)

    def captures() -> None:
        cuda.empty_cache()  # as torch.cuda.graph does
        cuda.take(70 * MB)

    def captures_in_a_runtime_of_its_own() -> None:
        cuda.empty_cache()
        cuda.used += 30 * MB

    assert in_block(first) == 500 * MB
    assert in_block(captures_in_a_runtime_of_its_own) == 30 * MB
    assert in_block(first) == 500 * MB
    assert in_block(captures) == 70 * MB
    assert in_block(lambda: cuda.take(70 * MB)) == 70 * MB  # and is not lent to it unseen


def test_what_loads_once_is_not_counted_for_the_first_case(cuda: FakeCuda) -> None:
    def opens() -> None:
        cuda.load_kernels()
        cuda.take(MB)

    assert in_block(opens) == MB
    assert in_block(opens) == MB


def test_the_peak_of_pytorchs_tensors_counts_where_it_is_higher_than_what_stays(
    cuda: FakeCuda,
) -> None:
    cuda.take(5000 * MB)  # of cases that stay open

    def opens() -> None:
        cuda.take(90 * MB)
        cuda.free(60 * MB)
        cuda.empty_cache()

    assert in_block(opens) == 90 * MB


def test_device_memory_that_others_gave_back_meanwhile_is_not_known(cuda: FakeCuda) -> None:
    def shrinks() -> None:
        cuda.used -= MB

    assert in_block(shrinks) is None
    assert in_block(lambda: None) == 0


def test_one_convolution_and_one_product_run_before_the_first_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def noted(name: str, function: Callable[..., Any], *arguments: Any, device: str = "") -> Any:
        ran.append(name + device)
        return function(*arguments)

    for owner, name in ((torch, "ones"), (torch, "mm"), (torch.nn.functional, "conv2d")):
        monkeypatch.setattr(owner, name, partial(noted, name, getattr(owner, name)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: ran.append("wait"))
    memory._load_kernels.cache_clear()
    memory._load_kernels()
    memory._load_kernels()
    memory._load_kernels.cache_clear()
    assert ran == ["onescuda", "onescuda", "conv2d", "mm", "wait"]


def test_memory_of_the_host_alone_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "from resnext_bench.memory import peak_memory\n"
        "with peak_memory():\n"
        "    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_machine_is_recorded_once_a_run_and_not_again_for_labeled_images(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    calls = []
    real = environment.record_environment

    def counting(nvml: Any) -> environment.Environment:
        calls.append(1)
        return real(nvml)

    for module_name in ("resnext_bench.run", "resnext.verify.accuracy"):
        monkeypatch.setattr(f"{module_name}.record_environment", counting)
    labeled = Labeled("digits", digits, 20, tmp_path)
    plan = Plan((Case("ort-cpu", 4),), 1e-9, 3, 0.0)
    (row,) = run_benchmark(digits, plan, accuracy=labeled).rows
    assert row.accuracy is not None
    assert (row.accuracy.images, calls) == (20, [1])
