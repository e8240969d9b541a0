"""Engines on a GPU: PyTorch's function at every batch and precision, graphs, caches, refits,
refusals and speed.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from exported import derive_onnx, export_engine, export_onnx
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.errors import EngineRefused, MissingRequirement, SessionFailed
from resnext.images.synthetic import seeded_pixels
from resnext.machine.cuda_driver import probe_driver
from resnext.precision import QUANTIZED, Precision
from resnext.runtimes.availability import available
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import Bound, Session
from resnext.runtimes.trt.library import LIBRARIES, EngineKind
from resnext.timing.clock import time_device
from resnext.verify.delivered import delivered_share, undelivered
from resnext.verify.eager import reference_logits
from resnext.verify.parity import Parity, compare, gate_for
from resnext.weights.spec import Weights, load_weights
from resnext_bench.cases import Candidate
from resnext_bench.plan import Case, Plan
from resnext_bench.run import run_benchmark
from resnext_export.cli.export import main
from resnext_export.formats.tensorrt import refit_engine
from resnext_export.request import ExportRequest
from resnext_export.store import build_or_reuse

BATCHES = (1, 8, 64, 256)
#: One for small batches, one for large ones.
PROFILES = ("1:8:8", "64:64:256")


def why_not(kind: EngineKind) -> str:
    """Why engines of ``kind`` cannot be built and run here; "" if they can, or if there is no
    driver.
    """
    if LIBRARIES[kind].version is None and LIBRARIES["trt-rtx"].version is not None:
        return f"{LIBRARIES[kind].title} is not installed"  # `trt` would mean TensorRT-RTX
    if LIBRARIES[kind].version is None or probe_driver().problem is None:
        return str(available(kind) or "")
    return ""


KINDS: tuple[EngineKind, ...] = tuple(kind for kind in LIBRARIES if not why_not(kind))
pytestmark = pytest.mark.skipif(not KINDS, reason="; ".join(why_not(kind) for kind in LIBRARIES))


@pytest.fixture(scope="module", params=KINDS or tuple(LIBRARIES))
def kind(request: pytest.FixtureRequest) -> EngineKind:
    return cast("EngineKind", request.param)


def options_for(
    kind: EngineKind, *profiles: str, quick: bool = True, **asked: bool
) -> EngineOptions:
    """Options of a build; ``quick`` shortens TensorRT's search for fast kernels."""
    level = 1 if quick and kind == "trt" else None
    parsed = tuple(BatchRange.parse(profile) for profile in profiles)
    return EngineOptions(profiles=parsed, optimization_level=level, **asked)


@pytest.fixture(scope="module")
def folder(kind: EngineKind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(f"engines-{kind}")


@pytest.fixture(scope="module")
def times(kind: EngineKind, folder: Path) -> Path | None:
    """A timing cache that the builds of this module share."""
    return folder / "times" if kind == "trt" else None


@pytest.fixture(scope="module")
def built(
    kind: EngineKind,
    artifact: Artifact,
    artifact_fp16: Artifact,
    weights: Weights,
    folder: Path,
    times: Path | None,
) -> Callable[[Precision], Artifact]:
    """The engine of either precision, built when it is first asked for."""

    @functools.cache
    def build(precision: Precision) -> Artifact:
        parent = {"fp16": artifact_fp16, "fp32": artifact}[precision]
        options = options_for(
            kind, *PROFILES, quick=precision == "fp32"
        )  # the other one's speed is tested, too
        return export_engine(
            parent,
            weights,
            folder / precision,
            kind=kind,
            options=options,
            timing_cache=times,
            check=False,
        )

    return build


@pytest.fixture(scope="module")
def fp16(built: Callable[[Precision], Artifact]) -> Artifact:
    return built("fp16")


@pytest.fixture(scope="module")
def fp32(built: Callable[[Precision], Artifact]) -> Artifact:
    return built("fp32")


@pytest.fixture
def engine(built: Callable[[Precision], Artifact], precision: Precision) -> Artifact:
    return built(precision)


BOTH = pytest.mark.parametrize("precision", ["fp16", "fp32"])


@pytest.fixture(scope="module")
def small() -> Weights:
    """A network that is built in seconds, for what does not hang on size."""
    return load_weights("seeded:0", "resnext11_8x4d_digits")


def opened(engine: Artifact, *, graph: bool = True) -> Session:
    return open_session(engine, engine.manifest.kind, options=SessionOptions(cuda_graph=graph))


def bound_logits(bound: Bound) -> Any:
    bound.enqueue()
    bound.synchronize()
    return bound.fetch()["logits"]


Judge = Callable[[Artifact, Any, slice], Parity]


@pytest.fixture(scope="module")
def judged(reference: Any, baseline: Any) -> Judge:
    """Compares logits of the images ``rows`` with float64's, as an engine's precision is to be
    judged.
    """

    def judge(engine: Artifact, logits: Any, rows: slice) -> Parity:
        numerics = engine.manifest.numerics
        want = reference[rows]
        loss = None if numerics == "fp32" else baseline[rows]
        return compare(want, logits[: len(want)], gate=gate_for(numerics), baseline=loss)

    return judge


# --- function
# ------------------------------------------------------------------------------------------


@BOTH
def test_bound_and_host_runs_are_float64s_at_every_batch(
    engine: Artifact, images: Any, judged: Judge
) -> None:
    assert engine.manifest.numerics == engine.manifest.precision
    with opened(engine) as session:
        for batch in BATCHES:
            bound = session.bind({"input": images[:batch]})
            logits_bound = bound_logits(bound)
            assert bound.boundary == "graph", session.delivered().notes
            host = session.run({"input": images[:batch]})["logits"]
            for logits in (logits_bound, host):
                assert logits.shape == (batch, engine.manifest.network.num_classes)
                outcome = judged(engine, logits, slice(0, batch))
                assert outcome.passed, (batch, outcome.failures)


@BOTH
def test_rows_that_are_not_compared_do_not_hang_on_the_batch(engine: Artifact, images: Any) -> None:
    """The reference only has the first images; the others are compared with runs of eight."""
    with opened(engine) as session:
        whole = session.run({"input": images[:64]})["logits"]
        parts = [
            session.run({"input": images[start : start + 8]})["logits"] for start in range(0, 64, 8)
        ]
    gate = gate_for(engine.manifest.numerics)
    outcome = compare(np.concatenate(parts), whole, gate=gate)
    assert outcome.passed, outcome.failures


def test_images_in_another_order_are_caught(fp16: Artifact, images: Any, judged: Judge) -> None:
    with opened(fp16) as session:
        logits = session.run({"input": images[:8]})["logits"]
    assert judged(fp16, logits, slice(0, 8)).passed
    outcome = judged(fp16, logits[::-1].copy(), slice(0, 8))
    assert any("swapped" in failure for failure in outcome.failures)


@BOTH
def test_a_cuda_graph_gives_what_plain_launches_give(engine: Artifact, images: Any) -> None:
    logits = {}
    for graph in (True, False):
        with opened(engine, graph=graph) as session:
            bound = session.bind({"input": images[:8]})
            logits[graph] = bound_logits(bound)
            assert bound.boundary == ("graph" if graph else "device")
            assert session.delivered().notes["cuda graph"] == (
                "on" if graph else "off: not requested"
            )
    # The same kernels: only sums that are taken in no fixed order may differ.
    np.testing.assert_allclose(
        logits[True], logits[False], rtol=0, atol=1e-5 * np.abs(logits[False]).max()
    )


@BOTH
def test_going_back_and_forth_between_batches_takes_each_times_input(
    engine: Artifact, images: Any, judged: Judge
) -> None:
    """Profiles change, graphs are captured and replayed again, and host runs between leave what is
    bound alone.
    """
    with opened(engine) as session:
        for start, stop in ((0, 8), (4, 5), (0, 64), (8, 16), (9, 10), (2, 66), (3, 11), (0, 256)):
            rows = slice(start, min(stop, 16))
            bound = session.bind({"input": images[start:stop]})
            first = bound_logits(bound)
            between = session.run({"input": images[10:12]})["logits"]
            again = bound_logits(bound)
            for logits, of in ((first, rows), (between, slice(10, 12)), (again, rows)):
                outcome = judged(engine, logits, of)
                assert outcome.passed, (start, stop, outcome.failures)


def test_outputs_belong_to_the_caller(fp16: Artifact, images: Any) -> None:
    with opened(fp16) as session:
        first = session.run({"input": images[:8]})["logits"]
        kept = first.copy()
        fetched = bound_logits(session.bind({"input": images[:8]}))
        kept_fetched = fetched.copy()
        session.run({"input": images[8:16]})
        bound_logits(session.bind({"input": images[8:16]}))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(fetched, kept_fetched)


# --- precision
# ------------------------------------------------------------------------------------------


def test_tf32_stays_within_its_own_gate_and_float32_within_float32s(
    kind: EngineKind,
    artifact: Artifact,
    fp32: Artifact,
    weights: Weights,
    folder: Path,
    images: Any,
    judged: Judge,
) -> None:
    options = options_for(kind, "8", tf32=True)
    loose = export_engine(
        artifact, weights, folder / "tf32", kind=kind, options=options, check=False
    )
    assert (loose.manifest.numerics, fp32.manifest.numerics) == ("tf32", "fp32")
    outcomes = {}
    for engine in (loose, fp32):
        with opened(engine) as session:
            outcomes[engine.manifest.numerics] = judged(
                engine, bound_logits(session.bind({"input": images[:8]})), slice(0, 8)
            )
    assert outcomes["tf32"].passed, outcomes["tf32"].failures
    assert outcomes["fp32"].passed, outcomes["fp32"].failures


def test_all_of_an_fp16_engine_is_delivered_in_float16(fp16: Artifact, images: Any) -> None:
    with opened(fp16) as session:
        session.bind({"input": images[:8]})
        found = session.delivered()
    assert delivered_share(found, fp16.manifest.config, "float16") == 1.0, found.summary()
    assert found.device.startswith("cuda:0 ")
    for live in ([], ["--backend", fp16.manifest.kind]):
        arguments = [
            "inspect",
            str(fp16.directory),
            "--require-delivered",
            "0.99",
            "--require-loadable",
            *live,
        ]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output


def test_the_profiler_times_the_layers_that_the_inspector_lists(
    fp16: Artifact, images: Any
) -> None:
    inputs = {"input": images[:64]}
    with opened(fp16) as session:
        bound = session.bind(inputs)
        before = bound_logits(bound)
        run_ns: list[int] = []
        times = session.layer_times(inputs, 5, lambda: run_ns.extend(time_device(bound, 3)[0]))
        delivered = session.delivered().layers
        np.testing.assert_array_equal(bound_logits(bound), before)
    modules = {module for time in times for module in time.layer.modules}
    assert modules == {module for layer in delivered for module in layer.modules}
    assert 0.8 < sum(time.ns for time in times) / np.median(run_ns) < 1.5


def test_an_engine_in_float32_is_not_called_float16(fp32: Artifact, images: Any) -> None:
    with opened(fp32) as session:
        session.bind({"input": images[:8]})
        found = session.delivered()
    assert delivered_share(found, fp32.manifest.config, "float16") == 0.0
    assert delivered_share(found, fp32.manifest.config, "float32") == 1.0, found.summary()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", "bfloat16"), ("int8", "int8"), ("fp8", "float8_e4m3fn")]
)
@pytest.mark.parametrize("merge", [None, 32])
def test_other_precisions_are_right_and_delivered(
    kind: EngineKind, precision: Precision, dtype: str, merge: int | None, tmp_path: Path
) -> None:
    capability = probe_driver().gpus[0].compute_capability
    if precision == "fp8" and tuple(map(int, capability.split("."))) < (8, 9):
        pytest.skip(f"no float8 on compute capability {capability}")
    weights = load_weights("digits")
    noise = {"runtime": "trt", "calibration": "random", "calibration_images": 32}
    quantized = noise if precision in QUANTIZED else {}
    plain = export_onnx(weights, tmp_path / "fp32", check=False)
    recipe = ExportRequest(precision=precision, merge_groups=merge, **quantized)
    parent = derive_onnx(plain, weights, tmp_path / "onnx", recipe)
    options = options_for(kind, "1:8:64")
    engine = export_engine(
        parent, weights, tmp_path / "engine", kind=kind, options=options
    )  # which compares
    assert engine.manifest.check is not None
    with opened(engine) as session:
        session.bind({"input": np.zeros((8, 1, 8, 8), np.float32)})
        missed = dict(undelivered(session.delivered(), weights.config, dtype))
    assert missed.keys() <= engine.manifest.left, missed


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_native_inputs_and_outputs(
    kind: EngineKind, precision: Precision, small: Weights, tmp_path: Path
) -> None:
    plain = export_onnx(small, tmp_path / "fp32", check=False)
    parent = derive_onnx(
        plain,
        small,
        tmp_path / "onnx",
        ExportRequest(precision=precision, io="native"),
        check=False,
    )
    engine = export_engine(
        parent, small, tmp_path / "engine", kind=kind, options=options_for(kind, "8")
    )
    assert engine.manifest.inputs[0].dtype == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert engine.manifest.check is not None


# --- refusals
# ------------------------------------------------------------------------------------------


def test_infinite_weights_are_refused(kind: EngineKind, small: Weights, tmp_path: Path) -> None:
    bias = small.state_dict["fc.bias"].clone()
    bias[3] = torch.inf
    bad = replace(small, state_dict={**small.state_dict, "fc.bias": bias})
    artifact = export_onnx(bad, tmp_path / "onnx", check=False)
    images = small.preprocessing.normalize(seeded_pixels(small.config, 8))
    options = options_for(kind, "8")

    def build_and_run() -> None:
        engine = export_engine(
            artifact, bad, tmp_path / "engine", kind=kind, options=options, check=False
        )
        with opened(engine) as session:
            session.run({"input": images})

    with pytest.raises((EngineRefused, SessionFailed)) as caught:  # the builder may say so first
        build_and_run()
    assert isinstance(caught.value, EngineRefused) or "NaN or infinity" in str(caught.value)


def test_an_engine_of_another_compute_capability_is_refused_before_it_is_loaded(
    kind: EngineKind, fp16: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = fp16.manifest.engine
    assert record is not None
    capability = probe_driver().gpus[0].compute_capability
    other = "9.0" if capability != "9.0" else "8.0"
    changes: dict[str, Any] = {"compute_capability": other}
    if kind == "trt-rtx":
        target = "sm_75" if capability != "7.5" else "sm_86"
        changes["options"] = record.options.model_copy(update={"targets": (target,)})
    moved = fp16.manifest.model_copy(update={"engine": record.model_copy(update=changes)})

    def loaded(*_given: Any) -> Any:
        raise AssertionError("the library was asked to load it")

    monkeypatch.setattr(type(LIBRARIES[kind]), "runtime", loaded)
    with pytest.raises(MissingRequirement, match="it was built for"):
        opened(Artifact(fp16.directory, moved))
    with pytest.raises(AssertionError, match="asked to load"):
        opened(fp16)


# --- refit
# ------------------------------------------------------------------------------------------


def test_a_refit_changes_the_output_as_the_weights_do(
    kind: EngineKind, small: Weights, tmp_path: Path
) -> None:
    artifact = export_onnx(small, tmp_path / "onnx", check=False)
    thin = export_engine(
        artifact,
        small,
        tmp_path / "thin",
        kind=kind,
        options=options_for(kind, "1:8:8", strip_weights=True),
    )
    with pytest.raises(MissingRequirement, match="weights were stripped"):
        opened(thin)
    whole = refit_engine(thin, "seeded:1", tmp_path / "whole")
    assert whole.manifest.file_size_bytes > thin.manifest.file_size_bytes
    images = small.preprocessing.normalize(seeded_pixels(small.config, 8))
    with opened(whole) as session:
        logits = bound_logits(session.bind({"input": images}))
    new = compare(reference_logits(load_weights("seeded:1", small.config), images), logits)
    assert new.passed, new.failures
    assert not compare(reference_logits(small, images), logits).passed


# --- caches
# ------------------------------------------------------------------------------------------

SECOND_PROCESS = """
import json
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.images.synthetic import seeded_pixels
from resnext.weights.spec import load_weights
from resnext_export import ExportRequest
from resnext_export.store import build_or_reuse

weights = load_weights("digits")
images = weights.preprocessing.normalize(seeded_pixels(weights.config, 8))
parent = build_or_reuse(ExportRequest(), weights)
built = build_or_reuse(ExportRequest(format=KIND, batch="1:8:8"), weights, parent.artifact)
with open_session(built.artifact, KIND, options=SessionOptions()) as session:
    session.bind({"input": images})
    notes = dict(session.delivered().notes)
print(json.dumps({"reused": [parent.reused, built.reused], "notes": notes}))
"""


def test_a_second_process_builds_and_compiles_nothing(
    kind: EngineKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    digits = load_weights("digits")
    parent = build_or_reuse(ExportRequest(), digits).artifact
    built = build_or_reuse(ExportRequest(format=kind, batch="1:8:8"), digits, parent)
    assert not built.reused
    assert built.artifact.manifest.check is not None
    images = digits.preprocessing.normalize(seeded_pixels(digits.config, 8))
    with opened(built.artifact) as session:
        session.bind({"input": images})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SECOND_PROCESS.replace("KIND", repr(kind))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["reused"] == [True, True]
    assert told["notes"].get("kernel cache") == ("reused" if kind == "trt-rtx" else None)


# --- speed
# ------------------------------------------------------------------------------------------


def test_an_engine_is_at_least_as_fast_as_torch_compile(
    kind: EngineKind, fp16: Artifact, weights: Weights
) -> None:
    cases = (Case("torch-compile", 64), Case(kind, 64))
    plan = Plan(cases, duration_s=1.5, rounds=8, warmup_s=0.5)
    run = run_benchmark(
        weights,
        plan,
        options=SessionOptions(device="cuda"),
        candidates={"": Candidate("fp16", fp16)},
    )
    for row in run.rows:
        assert row.status == "valid", row.reasons
    compiled, engine = run.rows
    speedups = {timing.boundary: timing.speedup for timing in engine.timings}
    assert {timing.boundary for timing in compiled.timings} == set(speedups) == {"host", "graph"}
    assert speedups["graph"] is not None
    assert speedups["graph"][0] >= 1.0, speedups
