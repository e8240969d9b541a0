"""Backends keep the Session contract on the same network, and a device or provider not given is an
error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import pytest
import torch

from exported import export_onnx
from fakes.delivered import layer_share
from fakes.package import fake_package
from resnext.artifact.files import Artifact
from resnext.errors import (
    BadArtifact,
    BadInput,
    MissingRequirement,
    SessionFailed,
    SilentFallback,
    UnknownName,
    UsageError,
)
from resnext.findings import Finding
from resnext.images.synthetic import seeded_pixels
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.runtimes.availability import available_runtimes
from resnext.runtimes.ort import cuda_probe
from resnext.runtimes.pt2 import toolchain
from resnext.runtimes.pytorch import network as torch_network
from resnext.runtimes.pytorch import session as torch_session
from resnext.runtimes.registry import RUNTIMES, SessionOptions, natural_runtime, open_session
from resnext.runtimes.session import Session
from resnext.runtimes.trt.library import LIBRARIES
from resnext.verify.eager import reference_logits
from resnext.verify.parity import compare, gate_for
from resnext.weights.spec import Weights, load_weights

CPU = SessionOptions(device="cpu")
#: Compiling takes seconds, and a trial of two layouts compiles twice.
ONE_LAYOUT = SessionOptions(device="cpu", memory_format="nchw")
HERE = [
    "torch",
    "torch-folded",
    "ort",
    "ort-cpu",
    pytest.param("torch-compile", marks=pytest.mark.slow),
]
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile on a CPU needs a C++ compiler"
)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("backends") / "artifact")


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 9))


def open_here(
    name: str, weights: Weights, artifact: Artifact, options: SessionOptions = CPU
) -> Session:
    if name == "torch-compile" and options is CPU:
        options = ONE_LAYOUT
    return open_session(weights if RUNTIMES[name].live else artifact, name, options=options)


@pytest.mark.parametrize("name", HERE)
def test_run_and_bound_run_agree_with_float64(
    name: str, weights: Weights, artifact: Artifact, images: Any
) -> None:
    reference = reference_logits(weights, images)
    with open_here(name, weights, artifact) as session:
        for rows in (slice(0, 9), slice(3, 4)):  # more than one batch size from one session
            outcome = compare(reference[rows], session.run({"input": images[rows]})["logits"])
            assert outcome.passed, outcome.failures
            bound = session.bind({"input": images[rows]})
            bound.enqueue()
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed


@pytest.mark.parametrize("name", ["torch", "ort-cpu"])
def test_results_belong_to_the_caller(
    name: str, weights: Weights, artifact: Artifact, images: Any
) -> None:
    with open_here(name, weights, artifact) as session:
        first = session.run({"input": images[:2]})["logits"]
        kept = first.copy()
        session.run({"input": images[2:4]})
        np.testing.assert_array_equal(first, kept)
        bound = session.bind({"input": images[:2]})
        fetched = bound.fetch()["logits"]
        fetched[:] = 0
        assert bound.fetch()["logits"].any()


@pytest.mark.parametrize("name", ["torch", "ort-cpu"])
def test_bound_input_is_a_copy(
    name: str, weights: Weights, artifact: Artifact, images: Any
) -> None:
    with open_here(name, weights, artifact) as session:
        mine = images[:2].copy()
        bound = session.bind({"input": mine})
        before = bound.fetch()["logits"]
        mine[:] = 0
        bound.enqueue()
        bound.synchronize()
        np.testing.assert_allclose(bound.fetch()["logits"], before, rtol=1e-6)


@pytest.mark.parametrize("name", ["torch", "ort-cpu"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((1, 1, 8, 8), np.float64), "dtype float64, want float32"),
        (np.zeros((1, 3, 8, 8), np.float32), "shape 1x3x8x8, want Nx1x8x8"),
        (np.zeros((0, 1, 8, 8), np.float32), "shape 0x1x8x8"),
        (np.zeros((8, 8), np.float32), "shape 8x8"),
    ],
)
def test_a_wrong_input_says_what_was_got_and_wanted(
    name: str, bad: Any, message: str, weights: Weights, artifact: Artifact
) -> None:
    with open_here(name, weights, artifact) as session:
        with pytest.raises(BadInput, match=message):
            session.bind({"input": bad})
        if bad.shape[0]:  # a runtime may well run no image at all
            with pytest.raises(BadInput, match=message):
                session.run({"input": bad})


def test_a_wrong_input_name_is_refused(artifact: Artifact, images: Any) -> None:
    with (
        open_session(artifact, "ort-cpu") as session,
        pytest.raises(BadInput, match=r"named \['input'\], got"),
    ):
        session.run({"image": images})


@pytest.mark.parametrize("name", ["torch", "ort-cpu"])
def test_every_convolution_and_product_is_reported_delivered(
    name: str, weights: Weights, artifact: Artifact
) -> None:
    with open_here(name, weights, artifact) as session:
        delivered = session.delivered()
    heavy = [layer for layer in delivered.layers if layer.op in ("Conv", "Gemm")]
    assert len(heavy) == 14
    assert layer_share(delivered, "float32") == 1.0
    assert layer_share(delivered, "float16") == 0.0


@pytest.mark.exhaustive
@needs_compiler
def test_torch_compile_gets_the_whole_network_as_one_graph(weights: Weights, images: Any) -> None:
    with open_session(weights, "torch-compile", options=ONE_LAYOUT) as session:
        session.bind({"input": images})
        delivered = session.delivered()
        assert delivered.notes["graphs"] == "1"
        assert layer_share(delivered, "float32") == 1.0


@pytest.mark.slow
@needs_compiler
def test_a_network_that_pytorch_ran_eagerly_is_not_passed_off_as_compiled(
    weights: Weights, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Past the recompile limit PyTorch runs a compiled model eagerly; the limit counts over all
    # sessions of a process.
    torch.compiler.reset()
    monkeypatch.setattr(torch_network, "_RECOMPILE_LIMIT", 1)
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        open_session(weights, "torch-compile", options=ONE_LAYOUT) as first,
    ):
        first.bind({"input": images[:2]})
        with (
            open_session(weights, "torch-compile", options=ONE_LAYOUT) as second,
            pytest.raises((SilentFallback, SessionFailed)),
        ):
            second.bind({"input": images[:3]})
    torch.compiler.reset()


@pytest.mark.exhaustive
@needs_compiler
def test_more_compiled_sessions_than_pytorchs_own_limit_are_all_compiled(
    weights: Weights, images: Any
) -> None:
    torch.compiler.reset()
    limit = 2  # instead of PyTorch's 8, for the time that a compilation takes
    with torch._dynamo.config.patch(recompile_limit=limit), contextlib.ExitStack() as stack:
        for batch in range(1, limit + 2):
            session = stack.enter_context(
                open_session(weights, "torch-compile", options=ONE_LAYOUT)
            )
            session.bind({"input": images[:batch]})
            assert session.delivered().notes["graphs"] == "1"
    torch.compiler.reset()


def test_precision_is_that_asked_for_inside_and_float32_outside(
    weights: Weights, images: Any
) -> None:
    with open_session(
        weights, "torch", options=SessionOptions(device="cpu", precision="fp16")
    ) as session:
        logits = session.run({"input": images})["logits"]
        assert layer_share(session.delivered(), "float16") == 1.0
    assert logits.dtype == np.float32
    reference = reference_logits(weights, images)
    outcome = compare(reference, logits, gate=gate_for("fp16"))
    assert outcome.passed
    assert outcome.max_error is not None
    assert outcome.max_error > 1e-4  # it did round


def trials_of(weights: Weights, images: Any) -> tuple[str, dict[str, float]]:
    """The chosen memory format, and the milliseconds of each trial."""
    with open_session(weights, "torch", options=CPU) as session:
        session.bind({"input": images})
        notes = session.delivered().notes
    trials = {
        name.removeprefix("trial "): float(value.split()[0])
        for name, value in notes.items()
        if "trial" in name
    }
    return notes["memory format"], trials


def test_memory_formats_are_tried(weights: Weights, images: Any) -> None:
    chosen, trials = trials_of(weights, images)
    assert set(trials) == {"nchw", "channels-last"}
    assert chosen in trials
    assert min(trials.values()) > 0


@pytest.mark.parametrize(
    ("nchw", "channels_last", "best"),
    [
        ([3.0, 3.0, 3.0], [1.0, 1.0, 1.0], "channels-last"),
        ([1.0, 1.0, 1.0], [3.0, 3.0, 3.0], "nchw"),
        ([1.0, 1.0, 1.0], [0.98, 0.98, 0.98], "nchw"),  # not worth it
        ([1.0, 9.0, 9.0], [2.0, 3.0, 3.0], "channels-last"),  # in most rounds
    ],
)
def test_memory_format_is_chosen_by_a_trial_and_told(
    nchw: list[float],
    channels_last: list[float],
    best: str,
    weights: Weights,
    images: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = {"nchw": nchw, "channels-last": channels_last}
    monkeypatch.setattr(torch_session, "time_forms", lambda *_, **__: taken)
    chosen, trials = trials_of(weights, images)
    assert chosen == best
    assert trials == {title: min(samples) for title, samples in taken.items()}


@pytest.mark.parametrize("layout", ["nchw", "channels-last"])
def test_a_memory_format_that_was_asked_for_is_kept(
    layout: Any, weights: Weights, images: Any
) -> None:
    with open_session(
        weights, "torch", options=SessionOptions(device="cpu", memory_format=layout)
    ) as session:
        session.bind({"input": images})
        assert session.delivered().notes == {
            "memory format": layout,
            "threads": str(torch.get_num_threads()),
        }


def test_registry_entries_open_or_say_what_is_missing(weights: Weights, artifact: Artifact) -> None:
    for name, backend in RUNTIMES.items():
        if backend.formats[0] in LIBRARIES:
            with pytest.raises(UsageError, match=f"build an engine of it: `format` {name}, "):
                open_here(name, weights, artifact, SessionOptions())
        elif backend.formats[0] == "pt2":
            with pytest.raises(UsageError, match="exported from the weights, with `format` pt2"):
                open_here(name, weights, artifact, SessionOptions())
        elif backend.served:
            with pytest.raises(UsageError, match="needs the URL of a model"):
                open_here(name, weights, artifact, SessionOptions())
        elif backend.device == "cuda" and cuda_driver.probe_driver().problem is not None:
            options = SessionOptions(precision=backend.precisions[0])
            with pytest.raises(MissingRequirement, match="no CUDA device"):
                open_here(name, weights, artifact, options)
        elif name != "torch-compile":
            open_here(name, weights, artifact).close()


def test_unknown_backend_names_the_nearest(weights: Weights) -> None:
    with pytest.raises(UnknownName, match="did you mean 'torch-compile'"):
        open_session(weights, "torch-compiled")


def test_a_package_is_for_its_own_backend_alone(weights: Weights, tmp_path: Path) -> None:
    package = fake_package(tmp_path, weights)
    assert natural_runtime(package) == "pt2"
    for name in ("ort-cpu", "openvino", "ort"):
        with pytest.raises(UsageError, match="of kind pt2; use `backend` pt2"):
            open_session(package, name)


@pytest.mark.parametrize(
    ("found", "device", "there"),
    [
        ({"g++", "packages"}, "cpu", {"torch-compile", "pt2"}),
        (set(), "cpu", set()),
        ({"cc"}, "cpu", set()),
        ({"g++"}, "cpu", {"torch-compile"}),  # a compiler that is there and compiles nothing
        ({"cc", "packages"}, "cuda", {"torch-compile", "pt2"}),
        ({"cc", "c++"}, "cuda", {"torch-compile"}),
    ],
)
def test_all_means_compiled_backends_only_where_their_compiler_is(
    found: set[str],
    device: Literal["cpu", "cuda"],
    there: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    if device == "cuda":
        monkeypatch.setattr(
            cuda_driver, "probe_driver", lambda: Driver(None, 1, "13.0", (Gpu("GPU", "9.0"),))
        )
    asked = {
        device: None
        if "packages" in found
        else Finding("missing", "something is missing", "install it")
    }
    monkeypatch.setattr(toolchain, "obstacle", asked.__getitem__)
    assert {"torch-compile", "pt2"} & set(available_runtimes(device)) == there


def test_a_backend_refuses_what_it_cannot_run(weights: Weights, artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="runs an engine"):
        open_session(weights, "trt")
    with pytest.raises(UsageError, match="runs an ONNX artifact"):
        open_session(weights, "ort-cpu")
    with pytest.raises(UsageError, match=r"runs a \.pt2 package"):
        open_session(weights, "pt2")
    with pytest.raises(UsageError, match="runs weights"):
        open_session(artifact, "torch")
    with pytest.raises(UsageError, match="runs on cpu only"):
        open_session(artifact, "ort-cpu", options=SessionOptions(device="cuda"))


@pytest.mark.skipif(
    cuda_driver.probe_driver().problem is None, reason="this machine has a CUDA device"
)
@pytest.mark.parametrize("name", ["torch", "torch-compile", "ort"])
def test_cuda_asked_for_without_a_device_is_an_error_and_no_fallback(
    name: str, weights: Weights, artifact: Artifact
) -> None:
    with pytest.raises(MissingRequirement, match="no CUDA device"):
        open_here(name, weights, artifact, SessionOptions(device="cuda"))


@pytest.mark.parametrize(
    ("capability", "found"), [("8.9", ["trt-rtx"]), ("12.0", ["trt-rtx"]), ("9.0", [])]
)
def test_all_means_the_engine_libraries_that_take_this_gpu_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capability: str, found: list[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(
        cuda_driver, "probe_driver", lambda: Driver(None, 1, "13.0", (Gpu("GPU", capability),))
    )
    monkeypatch.setattr("resnext.runtimes.ort.cuda_probe.cuda_works", lambda _: False)
    assert [name for name in available_runtimes() if "trt" in name] == found


@pytest.fixture
def claims_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver shows a device: the checks before ONNX Runtime let the request
    through.
    """
    monkeypatch.setattr(cuda_driver, "probe_driver", lambda: Driver(None, 1, "13.0"))


@pytest.mark.usefixtures("claims_a_driver")
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a machine with CUDA the provider does load"
)
def test_a_provider_that_fell_back_to_the_cpu_is_an_error(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real onnxruntime-gpu on a machine without CUDA libraries: it warns and carries on with the
    # CPU provider.
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")
    with pytest.raises(MissingRequirement, match=r"no CUDA|cannot use CUDA"):
        open_session(artifact, "ort-cuda")
    monkeypatch.setattr(cuda_probe, "cuda_works", lambda _: True)  # and if that had been wrong
    with pytest.raises((SilentFallback, BadArtifact)):
        open_session(artifact, "ort-cuda")


@pytest.mark.usefixtures("claims_a_driver")
def test_a_runtime_that_reports_another_provider_is_an_error(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ort.InferenceSession

    def on_the_cpu(path: str, options: Any, providers: Any, **_: Any) -> Any:
        del options, providers
        return real(path, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", on_the_cpu)
    monkeypatch.setattr(cuda_probe, "cuda_works", lambda _: True)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(
        SilentFallback, match="fell back from CUDAExecutionProvider to CPUExecutionProvider"
    ):
        open_session(artifact, "ort-cuda")


@pytest.mark.usefixtures("claims_a_driver")
def test_a_build_without_the_provider_says_which_package_has_it(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingRequirement, match="pip install onnxruntime-gpu"):
        open_session(artifact, "ort-cuda")


def test_ort_alone_takes_what_works_here(artifact: Artifact) -> None:
    with open_session(artifact, "ort") as session:
        works = cuda_probe.cuda_works(cuda_driver.probe_driver())
        assert session.delivered().device == ("cuda" if works else "cpu")


def test_available_backends_are_registered_and_run_here() -> None:
    names = available_runtimes("cpu")
    assert set(names) <= set(RUNTIMES)
    assert {"torch", "ort-cpu"} <= set(names)


def test_a_truncated_graph_is_a_bad_artifact_and_not_a_crash(
    artifact: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(artifact.directory, folder)
    data = artifact.path.read_bytes()[:500]
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(BadArtifact, match="truncated or altered"):
        open_session(Artifact(folder, artifact.manifest), "ort-cpu")
    facts = {"file_sha256": hashlib.sha256(data).hexdigest(), "file_size_bytes": 500}
    resealed = Artifact(folder, artifact.manifest.model_copy(update=facts))
    with pytest.raises(BadArtifact, match="not an ONNX file, or it is cut short"):
        open_session(resealed, "ort-cpu")


def test_onnx_runtime_does_not_report_to_its_maker(tmp_path: Path) -> None:
    """If it reports, it leaves a file with an identity in the temporary folder."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run(
        [sys.executable, "-c", "import resnext, onnxruntime"], env=environment, check=True
    )
    assert list(tmp_path.iterdir()) == []
