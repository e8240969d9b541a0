"""The sessions of ONNX Runtime over TensorRT and TensorRT-RTX, as far as a machine without a GPU
can show them.

The CPU provider stands in for TensorRT's. What only a GPU can show (engines, captured graphs,
times) is in tests/gpu.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from exported import export_onnx
from fakes.delivered import layer_share
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import BadInput, MissingRequirement, SessionFailed, SilentFallback
from resnext.images.synthetic import seeded_pixels
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.network.layers import layers
from resnext.precision import PRECISIONS
from resnext.readers.files import file_sha256
from resnext.runtimes.ort import device_bound, products, trt_provider
from resnext.runtimes.ort import libraries as ort_trt_libraries
from resnext.runtimes.ort.door import open_session
from resnext.runtimes.ort.libraries import load_tensorrt10, plugin_device
from resnext.runtimes.ort.products import PRECISION_OPTIONS
from resnext.runtimes.ort.session import OrtSession
from resnext.runtimes.ort.trt_provider import TensorrtProvider
from resnext.runtimes.registry import SessionOptions
from resnext.verify.delivered import undelivered
from resnext.verify.eager import reference_logits
from resnext.verify.parity import compare
from resnext.weights.spec import Weights, load_weights

H200 = Driver(None, 1, "13.0", (Gpu("NVIDIA H200", "9.0"),))
TRT, RTX = "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifacts(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("logic")
    dynamic = export_onnx(weights, folder / "dynamic")

    def noted(**changes: Any) -> Artifact:  # the file stays: options follow the manifest
        return replace(dynamic, manifest=dynamic.manifest.model_copy(update=changes))

    return {
        "unlimited": dynamic,
        "1:4:8": noted(batch=BatchRange(min=1, opt=4, max=8)),
        "2:2": noted(batch=BatchRange(min=2, opt=2, max=None)),
        "fp16": noted(precision="fp16"),
        "other weights": _with_a_note(dynamic, folder / "other"),
        "4": export_onnx(weights, folder / "static", batch=BatchRange(min=4, opt=4, max=4)),
    }


def _with_a_note(artifact: Artifact, folder: Path) -> Artifact:
    """A copy of ``artifact`` with other bytes, and a manifest that says so."""
    proto = onnx.load(artifact.path)
    proto.doc_string += "other"
    folder.mkdir()
    path = folder / artifact.manifest.file
    path.write_bytes(proto.SerializeToString())
    facts = {"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
    return Artifact(folder, artifact.manifest.model_copy(update=facts))


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


class Options(ort.SessionOptions):  # type: ignore[misc]  # onnxruntime is untyped
    """ONNX Runtime's session options that remember the plugin's devices, which this machine does
    not have.
    """

    chosen: tuple[Any, dict[str, str]] | None = None

    def add_provider_for_devices(self, devices: Any, settings: Any) -> None:
        self.chosen = (devices, settings)


@dataclass
class StandIn:
    """onnxruntime with the CPU provider in TensorRT's place; records options, and can leave nodes
    out.

    Attributes:
        asked: provider options of each session, in order.
        devices: what the plugin's sessions were made for.
        fallen: the provider that the session lists first, if it is not TensorRT's.
        unassigned: operators that partitioning leaves to the CPU.
        strayed: operators that a profiled run shows on the CPU.
        outputs: what is done to each output of a host run.
    """

    asked: list[dict[str, str]] = field(default_factory=list)
    devices: list[Any] = field(default_factory=list)
    fallen: str | None = None
    unassigned: tuple[str, ...] = ()
    strayed: tuple[str, ...] = ()
    outputs: Callable[[Any], Any] = lambda array: array


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    fake = StandIn()
    real = ort.InferenceSession
    if not hasattr(real, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime, the last for Python 3.10, does not tell nodes' providers")

    def make(path: str, options: Options, providers: Any = None, **settings: Any) -> Any:
        assert settings == {"enable_fallback": 0}
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        if providers is None:
            assert options.chosen is not None
            wanted, (devices, asked) = RTX, options.chosen
            fake.devices += devices
        else:
            ((wanted, asked),) = providers  # one alone: nothing stands behind TensorRT
            assert wanted == TRT
        fake.asked.append(asked)
        plain = ort.SessionOptions()
        plain.enable_profiling, plain.profile_file_prefix = (
            options.enable_profiling,
            options.profile_file_prefix,
        )
        plain.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = real(path, plain, providers=["CPUExecutionProvider"])
        parts = session.get_provider_graph_assignment_info()
        run, finish = session.run, session.end_profiling

        def assigned() -> list[Any]:
            return [
                SimpleNamespace(
                    ep_name="CPUExecutionProvider" if node.op_type in fake.unassigned else wanted,
                    get_nodes=lambda node=node: [node],
                )
                for part in parts
                for node in part.get_nodes()
            ]

        def end_profiling() -> str:
            name = str(finish())
            events = json.loads(Path(name).read_text())
            for event in events:
                details = event.get("args", {})
                if "provider" in details and details.get("op_name") not in fake.strayed:
                    details["provider"] = wanted
            Path(name).write_text(json.dumps(events))
            return name

        monkeypatch.setattr(session, "get_providers", lambda: [fake.fallen or wanted])
        monkeypatch.setattr(session, "get_provider_graph_assignment_info", assigned)
        monkeypatch.setattr(session, "end_profiling", end_profiling)
        monkeypatch.setattr(
            session, "run", lambda *given: [fake.outputs(array) for array in run(*given)]
        )
        return session

    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(ort, "InferenceSession", make)
    monkeypatch.setattr(trt_provider, "session_options", lambda _options: Options())
    values = SimpleNamespace(OrtValue=CpuOrtValue, RunOptions=ort.RunOptions)
    monkeypatch.setattr(device_bound, "ort", values)
    monkeypatch.setattr(device_bound, "torch_stream", lambda: None)
    return fake


def open_on(
    name: str,
    artifact: Artifact,
    *,
    graph: bool = False,
    version: str = "10.16.1",
    listed: Any = "the listed GPU",
) -> OrtSession:
    rtx = name == "ort-trt-rtx"
    product = products.tensorrt_rtx("0.5.0", listed) if rtx else products.tensorrt10(version)
    return OrtSession(TensorrtProvider(artifact, SessionOptions(cuda_graph=graph), name, product))


def test_options_are_ones_that_the_provider_has(
    runtime: StandIn, artifacts: dict[str, Artifact], images: Any
) -> None:
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    if not library.exists():
        pytest.skip("this onnxruntime has no TensorRT provider")
    known = library.read_bytes()  # it refuses an option that it does not know, on a GPU only
    with open_on("ort-trt", artifacts["1:4:8"], graph=True) as session:
        session.bind({"input": images[:4]})
    asked = {"has_user_compute_stream", "user_compute_stream"}.union(
        *PRECISION_OPTIONS.values(), *runtime.asked
    )
    assert len(asked) == 12
    assert [name for name in sorted(asked) if name.encode() + b"\0" not in known] == []
    assert b"trt_fp8_enable\0" not in known


# --- what is refused, and how
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ort-trt", "ort-trt-rtx"])
def test_without_a_gpu_the_answer_is_exit_3_and_what_would_work(name: str) -> None:
    script = (
        "import click\n"
        "from resnext.cli.app import guarded\n"
        "@click.command()\n"
        "@guarded\n"
        "def main():\n"
        "    from resnext.runtimes.registry import SessionOptions\n"
        "    from resnext.runtimes.ort.door import open_session\n"
        f"    open_session(None, SessionOptions(), {name!r})\n"
        "main()\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "no CUDA device: the NVIDIA driver" in done.stderr
    assert "--backend ort-cpu" in done.stderr


@pytest.mark.parametrize(
    ("name", "looked"), [("ort-trt", "load_tensorrt10"), ("ort-trt-rtx", "plugin_device")]
)
def test_with_a_gpu_the_library_is_looked_for_before_the_artifact_is_opened(
    name: str, looked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_given: Any) -> Any:
        raise MissingRequirement("the library")

    monkeypatch.setattr(cuda_driver, "probe_driver", lambda: H200)
    monkeypatch.setattr(ort_trt_libraries, looked, missing)
    with pytest.raises(MissingRequirement, match="the library"):
        open_session(None, SessionOptions(), name)  # type: ignore[arg-type]  # never reached


class Libraries:
    """The loader of a machine that has some libraries; what is loaded is remembered."""

    def __init__(self, *present: str) -> None:
        self.present = set(present)
        self.loaded: list[str] = []

    def __call__(self, path: str) -> Any:
        if path not in self.present:
            raise OSError(f"{path}: cannot open shared object file")
        self.loaded.append(path)
        return SimpleNamespace(getInferLibVersion=lambda: 101601)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Libraries]:
    """Makes a machine with these files in the wheel's folder (None: no wheel) and these in the
    system's.
    """

    def make(
        wheel: list[str] | None, system: list[str], *, cuda: str = "13.0", works: bool = True
    ) -> Libraries:
        for name in wheel or ():
            (tmp_path / name).touch()
        spec = (
            None if wheel is None else SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        )
        libraries = Libraries(*(str(tmp_path / name) for name in wheel or ()), *system)
        monkeypatch.setattr(ort_trt_libraries.importlib.util, "find_spec", lambda _name: spec)  # type: ignore[attr-defined]
        monkeypatch.setattr(ort_trt_libraries.ctypes, "CDLL", libraries)  # type: ignore[attr-defined]
        first = next((name for name in system if name.startswith("libnvinfer.so")), None)
        monkeypatch.setattr(ort_trt_libraries, "find_library", lambda _name: first)
        monkeypatch.setattr(ort_trt_libraries, "cuda_works", lambda _: works)
        providers = [TRT, "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
        monkeypatch.setattr(ort, "cuda_version", cuda, raising=False)
        return libraries

    return make


TEN = ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"]


def test_tensorrt_10_is_loaded_from_its_wheel_and_before_the_systems(
    machine: Callable[..., Libraries], tmp_path: Path
) -> None:
    libraries = machine(TEN, TEN)
    assert load_tensorrt10(H200) == "10.16.1"
    assert libraries.loaded == [str(tmp_path / name) for name in TEN]


@pytest.mark.parametrize("wheel", [None, ["libnvinfer.so.11"], ["libnvinfer.so.10"]])
def test_tensorrt_10_of_the_system_serves_where_the_wheel_does_not(
    machine: Callable[..., Libraries], wheel: list[str] | None
) -> None:
    libraries = machine(
        wheel, [TEN[0], TEN[2]]
    )  # the library of TensorRT's own operators may be missing
    assert load_tensorrt10(H200) == "10.16.1"
    assert libraries.loaded[-2:] == [TEN[0], TEN[2]]


@pytest.mark.parametrize(
    ("wheel", "system"), [(["libnvinfer.so.11"], []), (None, ["libnvinfer.so.11"])]
)
@pytest.mark.parametrize("cuda", ["12.8", "13.0"])
def test_tensorrt_11_alone_is_named_with_the_package_that_fits(
    machine: Callable[..., Libraries], wheel: list[str] | None, system: list[str], cuda: str
) -> None:
    machine(wheel, system, cuda=cuda)
    with pytest.raises(
        MissingRequirement, match="needs TensorRT 10, and only TensorRT 11"
    ) as caught:
        load_tensorrt10(H200)
    assert f'pip install "tensorrt-cu{cuda[:2]}<11"' in str(caught.value)
    assert "`backend` trt" in str(caught.value)


@pytest.mark.parametrize(
    ("wheel", "system"), [(None, []), ([], []), (["libnvinfer.so.10"], ["libnvinfer.so.10"])]
)
def test_no_tensorrt_or_half_of_it_says_what_the_loader_missed(
    machine: Callable[..., Libraries], wheel: list[str] | None, system: list[str]
) -> None:
    machine(wheel, system)
    with pytest.raises(MissingRequirement, match=r"not found \(libnv.*cannot open") as caught:
        load_tensorrt10(H200)
    assert 'pip install "tensorrt-cu13<11"' in str(caught.value)
    assert "TensorRT 11" not in str(caught.value)


def test_an_onnxruntime_without_the_provider_or_without_cuda_is_named(
    machine: Callable[..., Libraries], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(TEN, [], works=False)
    with pytest.raises(MissingRequirement, match="cuBLAS and cuDNN for CUDA 13"):
        load_tensorrt10(H200)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingRequirement, match="pip install onnxruntime-gpu"):
        load_tensorrt10(H200)


def listed(name: str, index: int) -> Any:
    return SimpleNamespace(ep_name=name, memory_info=lambda _kind: SimpleNamespace(device_id=index))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An installed plugin; holds the paths that were registered."""
    registered: list[str] = []
    module = SimpleNamespace(
        get_ep_name=lambda: RTX, get_library_path=lambda: "plugin.so", __version__="0.5.0"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", module)
    monkeypatch.setattr(
        ort, "register_execution_provider_library", lambda _name, path: registered.append(path)
    )
    ort_trt_libraries._register.cache_clear()
    return registered


def test_the_plugins_device_is_the_first_gpu_and_registered_once(
    plugin: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [listed("CPUExecutionProvider", 0), listed(RTX, 1), listed(RTX, 0)]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: devices)
    assert plugin_device(H200) == plugin_device(H200) == ("0.5.0", devices[2])
    assert plugin == ["plugin.so"]


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("devices", [[], [listed("CUDAExecutionProvider", 0)], [listed(RTX, 1)]])
def test_a_gpu_that_the_plugin_does_not_list_is_named(
    devices: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_ep_devices", lambda: devices)
    with pytest.raises(MissingRequirement, match=r"NVIDIA H200 with 9\.0.*8\.6, 8\.9 and 12\.0"):
        plugin_device(H200)


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_is_missing_or_does_not_load_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(_name: str, _path: str) -> None:
        raise RuntimeError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ort, "register_execution_provider_library", breaks)
    with pytest.raises(MissingRequirement, match=r"0\.5\.0 does not load .*libcuda"):
        plugin_device(H200)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(MissingRequirement, match="pip install onnxruntime-ep-nv-tensorrt-rtx"):
        plugin_device(H200)


# --- what the providers are asked for
# ----------------------------------------------------------------------------


def test_every_precision_has_its_options_for_a_weakly_typed_builder() -> None:
    assert set(PRECISION_OPTIONS) == set(PRECISIONS) - {"fp8"}


def test_tensorrts_options_follow_precision_and_cuda_graph(
    runtime: StandIn, artifacts: dict[str, Artifact], images: Any
) -> None:
    for kind in ("unlimited", "fp16"):
        with open_on("ort-trt", artifacts[kind], graph=True) as session:
            bound = session.bind({"input": images[:2]})
            assert bound.boundary == "graph"
    opened, asked_bound, opened_fp16, bound_fp16 = runtime.asked
    assert all(asked["trt_engine_cache_enable"] == "1" for asked in runtime.asked)
    assert [asked.get("trt_fp16_enable") for asked in runtime.asked] == [None, None, "1", "1"]
    assert [asked.get("trt_cuda_graph_enable") for asked in runtime.asked] == [None, "1", None, "1"]
    assert not [key for asked in (opened, opened_fp16) for key in asked if "profile" in key]
    for end in ("min", "max"):
        assert asked_bound[f"trt_profile_{end}_shapes"] == "input:2x1x8x8"
    assert bound_fp16["trt_profile_opt_shapes"] == "input:2x1x8x8"


def test_the_plugins_options_have_its_own_names_and_its_one_device(
    runtime: StandIn, artifacts: dict[str, Artifact], images: Any
) -> None:
    with open_on("ort-trt-rtx", artifacts["unlimited"], graph=True) as session:
        session.bind({"input": images[:2]})
    opened, bound = runtime.asked
    assert runtime.devices == ["the listed GPU"] * 2
    assert [asked["enable_cuda_graph"] for asked in runtime.asked] == ["0", "1"]
    assert set(opened) == {"nv_runtime_cache_path", "enable_cuda_graph"}
    assert {bound[f"nv_profile_{which}_shapes"] for which in ("min", "opt", "max")} == {
        "input:2x1x8x8"
    }


@pytest.mark.parametrize("name", ["ort-trt", "ort-trt-rtx"])
def test_the_stream_that_times_are_taken_on_is_the_providers(
    name: str, runtime: StandIn, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_bound, "torch_stream", lambda: SimpleNamespace(cuda_stream=1234))
    open_on(name, artifacts["4"]).close()
    (asked,) = runtime.asked
    assert (asked["has_user_compute_stream"], asked["user_compute_stream"]) == ("1", "1234")


@pytest.mark.parametrize("name", ["ort-trt", "ort-trt-rtx"])
def test_a_limited_range_is_one_engine_and_a_static_graph_needs_no_profile(
    name: str, runtime: StandIn, artifacts: dict[str, Artifact], images: Any
) -> None:
    prefix = "trt" if name == "ort-trt" else "nv"
    with open_on(name, artifacts["1:4:8"]) as session:
        bound = session.bind({"input": images[:3]})
        assert bound.boundary == "device"
    (asked,) = runtime.asked  # the session for `run` serves what is bound, too
    shapes = [asked[f"{prefix}_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    assert shapes == ["input:1x1x8x8", "input:4x1x8x8", "input:8x1x8x8"]
    with open_on(name, artifacts["4"]) as session:
        session.bind({"input": images[:4]})
    assert not [key for key in runtime.asked[-1] if "profile" in key]


def test_an_engine_is_cached_apart_from_every_other_that_the_provider_would_take_for_it(
    runtime: StandIn,
    artifacts: dict[str, Artifact],
    images: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with open_on("ort-trt", artifacts["unlimited"]) as session:
        session.bind({"input": images[:2]})
        session.bind({"input": images[:3]})
        session.bind({"input": images[:2]})
    open_on("ort-trt", artifacts["other weights"]).close()
    open_on("ort-trt", artifacts["unlimited"], graph=True, version="10.14.0").close()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    open_on("ort-trt", artifacts["unlimited"]).close()
    folders = [asked["trt_engine_cache_path"] for asked in runtime.asked]
    assert folders[1] == folders[3]
    assert len(set(folders)) == len(folders) - 1
    assert all(
        Path(folder).is_dir() and Path(folder).is_relative_to(tmp_path / "cache")
        for folder in folders
    )


def test_an_engine_with_one_bit_flipped_and_one_half_written_are_built_again(
    runtime: StandIn, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, bytes]] = []
    make = ort.InferenceSession

    def builds(*args: Any, providers: Any, **settings: Any) -> Any:
        folder = Path(providers[0][1]["trt_engine_cache_path"])
        found.append({each.name: each.read_bytes() for each in folder.glob("*.engine")})
        (folder / "a.engine").write_bytes(b"an engine")
        return make(*args, providers=providers, **settings)

    monkeypatch.setattr(ort, "InferenceSession", builds)
    for _ in range(2):
        open_on("ort-trt", artifacts["4"]).close()
    engine = Path(runtime.asked[-1]["trt_engine_cache_path"]) / "a.engine"
    engine.write_bytes(b"an enginf")
    (engine.parent / "killed.engine").write_bytes(b"half")
    open_on("ort-trt", artifacts["4"]).close()
    assert found == [{}, {"a.engine": b"an engine"}, {}]
    assert {path.name for path in engine.parent.glob("*.engine")} == {"a.engine"}


@pytest.mark.usefixtures("runtime")
def test_a_cache_folder_that_cannot_be_made_is_named(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(MissingRequirement, match="set RESNEXT_CACHE_DIR"):
        open_on("ort-trt", artifacts["4"])


# --- what runs, and where
# ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("name", ["ort-trt", "ort-trt-rtx"])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("kind", ["unlimited", "1:4:8"])
def test_bound_runs_and_host_runs_are_right_and_leave_each_other_alone(
    name: str, graph: bool, kind: str, artifacts: dict[str, Artifact], weights: Weights, images: Any
) -> None:
    reference = reference_logits(weights, images)
    with open_on(name, artifacts[kind], graph=graph) as session:
        for rows in (slice(0, 8), slice(8, 12)):
            bound = session.bind({"input": images[rows]})
            assert bound.boundary == ("graph" if graph else "device")
            assert compare(reference[2:5], session.run({"input": images[2:5]})["logits"]).passed
            bound.enqueue()
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed


@pytest.mark.parametrize(
    ("name", "where"), [("ort-trt", "Tensorrt"), ("ort-trt-rtx", "NvTensorRTRTX")]
)
def test_delivered_names_every_node_and_claims_no_element_type(
    name: str, where: str, runtime: StandIn, artifacts: dict[str, Artifact], images: Any
) -> None:
    with open_on(name, artifacts["unlimited"], graph=True) as session:
        session.bind({"input": images[:2]})
        found = session.delivered()
    assert "2x1x8x8" in str(runtime.asked[-1])  # the engine that is bound, profiled without a graph
    assert "1" not in (
        runtime.asked[-1].get("trt_cuda_graph_enable"),
        runtime.asked[-1].get("enable_cuda_graph"),
    )
    assert {layer.device for layer in found.layers} == {where}
    assert {layer.dtype for layer in found.layers} == {"unknown"}
    got = undelivered(found, artifacts["unlimited"].manifest.config, "float32")
    assert len(got) == len(list(layers(artifacts["unlimited"].manifest.network)))
    assert {dtype for _, dtype in got} == {
        "unknown"
    }  # each is there, and none claims an element type
    assert layer_share(found, "float32") == layer_share(found, "float16") == 0.0
    assert "does not say" in found.notes["cuda graph"]
    assert "NVIDIA_TF32_OVERRIDE=0 before" in found.notes["precision"]


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("kind", ["2:2", "4", "fp16"])
def test_delivered_without_a_bound_batch_profiles_one_that_the_artifact_takes(
    kind: str, artifacts: dict[str, Artifact]
) -> None:
    with open_on("ort-trt", artifacts[kind]) as session:
        found = session.delivered()
    assert found.layers
    assert found.notes["cuda graph"] == "off"
    assert ("fp16 allowed everywhere" in found.notes["precision"]) == (kind == "fp16")


def test_without_assignment_info_the_profiled_run_alone_decides(
    runtime: StandIn, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trt_provider, "assigned_nodes", lambda _session: []
    )  # as before onnxruntime 1.24
    with open_on("ort-trt", artifacts["4"]) as session:
        assert session.delivered().layers
        runtime.strayed = ("Gemm",)
        with pytest.raises(SilentFallback, match="ran outside"):
            session.delivered()


@pytest.mark.parametrize("name", ["ort-trt", "ort-trt-rtx"])
@pytest.mark.parametrize(
    "fault", [{"fallen": "CPUExecutionProvider"}, {"unassigned": ("MaxPool", "Relu")}]
)
def test_a_session_with_nodes_outside_tensorrt_does_not_open(
    name: str, fault: dict[str, Any], runtime: StandIn, artifacts: dict[str, Artifact]
) -> None:
    vars(runtime).update(fault)
    with pytest.raises(SilentFallback, match=r"another provider than .*CPU|Relu.*another provider"):
        open_on(name, artifacts["4"])


def test_a_node_that_ran_on_the_cpu_is_caught(
    runtime: StandIn, artifacts: dict[str, Artifact]
) -> None:
    with open_on("ort-trt", artifacts["4"]) as session:
        runtime.strayed = ("Gemm", "FusedGemm")
        with pytest.raises(SilentFallback, match=r"ran outside TensorrtExecutionProvider \(1 of"):
            session.delivered()


def test_onnxruntime_itself_refuses_when_the_listed_device_is_the_cpu(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real runtime with the plugin's own calls: only the device is the wrong one."""
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path))
    (cpu,) = [device for device in ort.get_ep_devices() if device.ep_name == "CPUExecutionProvider"]
    with pytest.raises(SilentFallback, match=r"does not take every node .*fallback"):
        open_on("ort-trt-rtx", artifacts["4"], graph=True, listed=cpu)


@pytest.mark.parametrize(
    ("said", "error", "match"),
    [
        ("Please install TensorRT libraries as mentioned", MissingRequirement, "does not load"),
        (
            "nodes are assigned to the default CPU EP, but fallback to CPU EP is off",
            SilentFallback,
            "every node",
        ),
        (
            "TensorRT EP failed to create engine from network",
            SessionFailed,
            "no engine of .*failed to create",
        ),
    ],
)
def test_what_onnxruntime_says_when_it_cannot_open_is_translated(
    said: str,
    error: type[Exception],
    match: str,
    runtime: StandIn,
    artifacts: dict[str, Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_given: Any, **_settings: Any) -> Any:
        raise RuntimeError(f"{said}\nand a second line")

    assert runtime.asked == []
    monkeypatch.setattr(ort, "InferenceSession", refuses)
    with pytest.raises(error, match=match) as caught:
        open_on("ort-trt", artifacts["4"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_no_result(
    value: float, runtime: StandIn, artifacts: dict[str, Artifact], images: Any
) -> None:
    with open_on("ort-trt", artifacts["4"]) as session:
        session.run({"input": images[:4]})
        runtime.outputs = lambda array: np.where(array == array.max(), np.float32(value), array)
        with pytest.raises(SessionFailed, match="overflow in fp16"):
            session.run({"input": images[:4]})
        bound = session.bind({"input": np.full_like(images[:4], np.nan)})
        with pytest.raises(SessionFailed, match="'logits' holds NaN"):
            bound.fetch()


@pytest.mark.usefixtures("runtime")
def test_a_batch_that_no_engine_covers_is_refused_by_its_size(
    artifacts: dict[str, Artifact], images: Any
) -> None:
    with (
        open_on("ort-trt", artifacts["1:4:8"]) as session,
        pytest.raises(BadInput, match=r"batch 9 .* 1\.\.8"),
    ):
        session.bind({"input": images[:9]})
