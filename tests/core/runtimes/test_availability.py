"""One table says what keeps each backend from running here, and it is asked before any work."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner

from exported import export_onnx
from fakes.package import fake_package
from resnext.artifact.files import Artifact
from resnext.artifact.kinds import KINDS
from resnext.errors import MissingRequirement, UnknownName, UsageError
from resnext.findings import Finding
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.machine.machine import Machine, this_machine
from resnext.precision import PRECISIONS
from resnext.runtimes import availability, compatibility
from resnext.runtimes.availability import available, available_runtimes, require
from resnext.runtimes.ort import cuda_probe, libraries
from resnext.runtimes.ort import door as ort_door
from resnext.runtimes.pt2 import toolchain
from resnext.runtimes.pt2.record import this_host
from resnext.runtimes.registry import RUNTIMES, SessionOptions, load_door, table
from resnext.runtimes.trt import library
from resnext.weights.spec import Weights, load_weights
from resnext_bench import artifacts
from resnext_bench.cases import Candidate
from resnext_bench.cli.bench import main as bench
from resnext_bench.plan import Case, Plan
from resnext_bench.run import run_benchmark
from resnext_export.cli.export import main as export

H100 = Driver(None, 1, "13.0", (Gpu("NVIDIA H100", "9.0"),))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A GPU machine with everything but what is named."""

    def missing(*_: object) -> Any:
        raise MissingRequirement("the library")

    def make(*lacking: str) -> None:
        driver = Driver("the NVIDIA driver is not installed") if "driver" in lacking else H100
        monkeypatch.setattr(cuda_driver, "probe_driver", lambda: driver)
        monkeypatch.setattr(
            torch.cuda, "is_available", lambda: not {"driver", "torch"} & set(lacking)
        )
        monkeypatch.setattr(
            shutil, "which", lambda name: None if "compiler" in lacking else f"/usr/bin/{name}"
        )
        for variable in ("CC", "CXX"):
            monkeypatch.delenv(variable, raising=False)
        providers = ["CPUExecutionProvider"] + ["CUDAExecutionProvider"] * (
            "provider" not in lacking
        )
        monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
        monkeypatch.setattr(
            cuda_probe, "cuda_works", lambda _: not {"cudnn", "driver"} & set(lacking)
        )
        monkeypatch.setattr(library.TensorRT, "version", None if "trt" in lacking else "11.4.0")
        monkeypatch.setattr(library.TensorRTRTX, "version", None if "rtx" in lacking else "1.7.1")
        monkeypatch.setattr(
            libraries, "load_tensorrt10", missing if "trt10" in lacking else lambda _: "10.16"
        )
        monkeypatch.setattr(
            libraries, "plugin_device", missing if "plugin" in lacking else lambda _: ("1", 0)
        )
        problem = Finding("no-toolkit", "no toolkit") if "toolkit" in lacking else None
        monkeypatch.setattr(toolchain, "obstacle", lambda _: problem)
        real = importlib.util.find_spec
        gone = {name for name in ("onnxruntime", "openvino") if name in lacking}
        monkeypatch.setattr(
            availability, "find_spec", lambda name: None if name in gone else real(name)
        )

    return make


def test_every_runtime_is_complete(plant: Callable[..., None]) -> None:
    plant()
    for name, known in RUNTIMES.items():
        assert known.name == name
        assert known.about
        assert known.devices
        assert set(known.formats) <= {"weights", *KINDS}
        assert set(known.precisions) <= set(PRECISIONS)
        door = load_door(name)
        assert callable(door.open_session)
        answer = door.available(name, "auto", this_machine(), prebuilt=True)
        assert answer is None or answer.message
    assert {kind for known in RUNTIMES.values() for kind in known.formats} == {"weights", *KINDS}


def test_two_runtimes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two runtimes have one name"):
        table(RUNTIMES["torch"], RUNTIMES["ort"], RUNTIMES["torch"])


def test_names_are_there_without_a_framework() -> None:
    script = (
        "import sys\nfrom resnext.runtimes.registry import RUNTIMES\n"
        "heavy = {'pydantic', 'numpy', 'torch', 'onnxruntime', 'openvino', 'click'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("lacking", "name", "device", "said"),
    [
        ((), "torch", "cuda", None),
        (("driver",), "torch", "cuda", "no CUDA device"),
        (("driver",), "torch", "auto", None),
        (("torch",), "torch-folded", "cuda", "install a CUDA build of torch"),
        (("compiler",), "torch-compile", "cpu", "needs a C and C++ compiler"),
        (("compiler",), "torch-compile", "cuda", "needs a C and C++ compiler"),
        (("onnxruntime",), "ort-cpu", "cpu", "pip install onnxruntime"),
        (("onnxruntime",), "ort", "auto", "pip install onnxruntime"),
        ((), "ort-cpu", "cuda", "runs on cpu only; drop `device` cuda"),
        (("driver",), "ort-cuda", "auto", "no CUDA device"),
        (("provider",), "ort-cuda", "cuda", "has no CUDA provider; pip uninstall onnxruntime"),
        (("cudnn",), "ort-cuda", "cuda", "needs cuBLAS and cuDNN"),
        ((), "ort-cuda", "cpu", "runs on cuda only; drop `device` cpu"),
        (("trt10",), "ort-trt", "auto", "the library"),
        (("plugin",), "ort-trt-rtx", "auto", "the library"),
        (("openvino",), "openvino", "auto", "pip install openvino"),
        (("trt", "rtx"), "trt", "auto", "TensorRT is not installed"),
        ((), "trt", "auto", None),
        (("driver",), "trt", "auto", "runs on an NVIDIA GPU only"),
        ((), "trt-rtx", "auto", "does not take NVIDIA H100"),
        (("toolkit",), "pt2", "cuda", "no toolkit"),
        (("driver",), "pt2", "cuda", "no CUDA device"),
        ((), "pt2", "cpu", None),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(
    lacking: tuple[str, ...], name: str, device: Any, said: str | None, plant: Callable[..., None]
) -> None:
    plant(*lacking)
    found = available(name, device)
    assert (found is None) == (said is None), found
    assert said is None or said in str(found)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(UnknownName):
        available("torch-compiled")


def test_a_package_whose_import_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None]
) -> None:
    plant()
    monkeypatch.setitem(sys.modules, "resnext.runtimes.ort.door", None)
    assert "needs the Python package" in str(available("ort-cuda"))


@pytest.mark.parametrize("name", ["ort-cpu", "ort-cuda", "openvino"])
def test_a_package_that_is_installed_and_broken_is_an_obstacle_and_no_crash(
    name: str, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None]
) -> None:
    plant()
    real = importlib.import_module
    modules = [f"resnext.runtimes.{name}" for name in ("ort.door", "openvino.door")]

    class Broken:
        """What a shared library that is missing comes to, whoever imports the module that needs
        it.
        """

        def find_spec(self, module: str, *_: object) -> None:
            if module in modules:
                raise ImportError("libplanted.so.9: cannot open shared object file")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    for module in modules:
        package, _, last = module.rpartition(".")
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.delattr(real(package), last, raising=False)
    assert "does not load: libplanted.so.9" in str(available(name))
    assert name not in available_runtimes()


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_compiler_that_a_variable_names_will_do(
    device: Any, variable: str, plant: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant()
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "/opt/compiler-18" else None)
    assert f"set {variable}" in str(available("torch-compile", device))
    monkeypatch.setenv(variable, "/opt/compiler-18")
    assert available("torch-compile", device) is None


def test_a_device_that_a_backend_never_runs_on_stays_an_error_of_the_call(
    plant: Callable[..., None],
) -> None:
    plant()
    with pytest.raises(UsageError, match="'ort-cpu' runs on cpu only"):
        require("ort-cpu", "cuda")
    with pytest.raises(UnknownName):
        require("torch-compiled")


@pytest.mark.parametrize(("name", "lacking"), [("trt-rtx", ()), ("pt2", ("toolkit",))])
def test_what_is_given_does_not_have_to_be_made(
    name: str, lacking: tuple[str, ...], plant: Callable[..., None]
) -> None:
    plant(
        *lacking
    )  # TensorRT-RTX builds for an H100 only if it is told so, and such an engine runs
    assert available(name) is not None
    assert available(name, prebuilt=True) is None
    plant("driver", "rtx", "trt")
    assert (available(name, prebuilt=True) is None) == (name == "pt2")


@pytest.mark.parametrize(
    ("lacking", "device", "names"),
    [
        (
            (),
            "auto",
            (
                "torch torch-folded torch-fused torch-compile ort-cpu ort-cuda ort-trt ort-trt-rtx"
                " openvino trt pt2"
            ),
        ),
        ((), "cpu", "torch torch-folded torch-compile ort-cpu openvino pt2"),
        (
            ("provider", "trt", "trt10", "plugin"),
            "cuda",
            "torch torch-folded torch-fused torch-compile pt2",
        ),
        (("driver", "toolkit", "compiler"), "auto", "torch torch-folded ort-cpu openvino"),
    ],
)
def test_all_means_those_without_an_obstacle_and_no_alias(
    lacking: tuple[str, ...], device: Any, names: str, plant: Callable[..., None]
) -> None:
    plant(*lacking)
    assert available_runtimes(device) == tuple(names.split())


@pytest.mark.parametrize("name", ["ort-cuda", "ort-trt", "openvino", "trt", "pt2"])
def test_the_benchmark_exports_nothing_for_a_backend_that_cannot_run(
    name: str, weights: Weights, plant: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("provider", "trt10", "openvino", "trt", "rtx", "toolkit")

    def exported(*_: object, **__: object) -> Any:
        raise AssertionError("exported in vain")

    monkeypatch.setattr(artifacts, "build_or_reuse", exported)
    run = run_benchmark(weights, Plan((Case(name, 1),), duration_s=0.01, warmup_s=0))
    assert (run.rows[0].status, run.rows[0].exit_code) == ("failed", 3)
    assert run.rows[0].reasons == (str(available(name)),)


def test_a_package_that_is_given_needs_no_compiler(
    weights: Weights, plant: Callable[..., None], tmp_path: Path
) -> None:
    plant("toolkit", "driver")
    package = fake_package(
        tmp_path, weights
    )  # without code, so it fails later, and for another reason
    candidates = {"": Candidate(artifact=package)}
    run = run_benchmark(
        weights, Plan((Case("pt2", 1),), duration_s=0.01, warmup_s=0), candidates=candidates
    )
    assert "no toolkit" not in run.rows[0].reasons[0]


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("availability") / "artifact", check=False)


def test_inspect_says_what_runs_a_file_here_and_what_does_not(
    artifact: Artifact, plant: Callable[..., None]
) -> None:
    plant("driver", "trt10")
    done = CliRunner().invoke(export, ["inspect", str(artifact.directory)])
    assert done.exit_code == 0, done.output
    assert "runs on    ort-cpu, openvino\n" in done.output
    assert "not here   ort-cuda: no CUDA device: the NVIDIA driver is not installed" in done.output
    assert "use --device cpu, or --backend ort-cpu, torch or" in done.output
    assert "`" not in done.output
    told = CliRunner().invoke(export, ["inspect", str(artifact.directory), "--json", "-"])
    assert json.loads(told.output)["backends"]["ort-cpu"] is None
    assert "no CUDA device" in json.loads(told.output)["backends"]["ort-cuda"]


def test_inspect_asks_before_it_opens(artifact: Artifact, plant: Callable[..., None]) -> None:
    plant("provider")
    done = CliRunner().invoke(export, ["inspect", str(artifact.directory), "--backend", "ort-cuda"])
    assert done.exit_code == 3
    assert "has no CUDA provider" in done.output


def test_inspect_says_first_that_a_backend_is_for_other_artifacts(
    artifact: Artifact, plant: Callable[..., None]
) -> None:
    plant("trt", "rtx", "driver")
    done = CliRunner().invoke(export, ["inspect", str(artifact.directory), "--backend", "trt"])
    assert done.exit_code == 2, done.output
    assert "build an engine of it" in done.output


def test_a_package_that_does_not_load_runs_on_nothing(
    weights: Weights, plant: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("toolkit", "driver")
    package = fake_package(tmp_path, weights)

    def kept() -> Any:
        told = CliRunner().invoke(export, ["inspect", str(package.directory), "--json", "-"])
        return json.loads(told.output)["backends"]["pt2"]

    assert kept() is None
    other = replace(this_host(), torch="1.0.0")
    monkeypatch.setattr(compatibility, "this_host", lambda: other)
    assert "installed is 1.0.0" in kept()


def test_all_on_a_device_that_nothing_has_says_so(plant: Callable[..., None]) -> None:
    plant("driver")
    done = CliRunner().invoke(
        bench, ["--backend", "all", "--device", "cuda", "--weights", "digits"]
    )
    assert done.exit_code == 3, done.output
    assert "no CUDA device" in done.output


@pytest.fixture
def asked(plant: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts how often the driver of a GPU machine is asked."""
    plant()
    questions: list[str] = []

    def ask() -> Driver:
        questions.append("driver")
        return H100

    monkeypatch.setattr(cuda_driver, "probe_driver", ask)
    return questions


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_driver_is_asked_once_for_one_runtime(name: str, device: Any, asked: list[str]) -> None:
    available(name, device)
    assert len(asked) <= 1
    asked.clear()
    available(name, device, machine=Machine(H100, "linux-x86_64"))
    assert asked == []


def test_the_driver_is_asked_once_for_all_runtimes(asked: list[str]) -> None:
    assert "trt" in available_runtimes("cuda")
    assert asked == ["driver"]


@pytest.mark.parametrize("name", ["ort", "ort-cpu", "ort-cuda", "ort-trt", "ort-trt-rtx"])
def test_opening_an_onnx_file_asks_the_driver_at_most_once(
    name: str, artifact: Artifact, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for provider in ("CpuProvider", "CudaProvider", "TensorrtProvider"):
        monkeypatch.setattr(ort_door, provider, lambda *given: given)
    monkeypatch.setattr(ort_door, "OrtSession", lambda provider: provider)
    load_door(name).open_session(artifact, SessionOptions(), name)
    assert asked == ([] if name == "ort-cpu" else ["driver"])
