"""OpenVINO matches PyTorch in the requested precision, and nothing that it would hide passes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from exported import export_onnx, seeded_resnext50
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange, Manifest
from resnext.errors import (
    BadArtifact,
    BadInput,
    MissingRequirement,
    SessionFailed,
    SilentFallback,
    UsageError,
)
from resnext.images.synthetic import seeded_pixels
from resnext.readers.files import file_sha256
from resnext.runtimes.openvino import session as openvino_session
from resnext.runtimes.openvino.door import open_session
from resnext.runtimes.openvino.ir import READERS, modules_by_node
from resnext.runtimes.openvino.library import ov
from resnext.runtimes.openvino.session import OpenvinoSession
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.registry import open_session as open_backend
from resnext.verify.delivered import delivered_share, undelivered
from resnext.verify.eager import cached_reference_logits, reference_logits
from resnext.verify.parity import compare, gate_for
from resnext.weights.spec import Weights, load_weights
from resnext_export.convert.openvino_from_onnx import FILE_NAME, openvino_from_onnx

CAPABILITIES = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
KINDS = ("onnx", "openvino")


def opened(artifact: Artifact, **options: Any) -> OpenvinoSession:
    return open_session(artifact, SessionOptions(**options), "openvino")


def with_file(artifact: Artifact, folder: Path, name: str, data: bytes, **update: Any) -> Artifact:
    """The artifact with other bytes in its file, and a manifest that agrees with them."""
    folder.mkdir(parents=True)
    path = folder / name
    path.write_bytes(data)
    facts = {"file": name, "file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
    return Artifact(folder, artifact.manifest.model_copy(update={**facts, **update}))


def packed(artifact: Artifact, folder: Path) -> Artifact:
    return with_file(
        artifact, folder, FILE_NAME, openvino_from_onnx(artifact.path, {}), kind="openvino"
    )


def quantized(artifact: Artifact, images: NDArray[np.float32], folder: Path) -> Artifact:
    """The artifact with Q/DQ nodes, as ONNX Runtime's quantizer makes them."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self._batches: Iterator[dict[str, NDArray[np.float32]]] = iter([{"input": images}])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._batches, None)

    folder.mkdir()
    out = folder / "int8.onnx"
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for a preprocessing that this graph does not need
    try:
        quantize_static(
            artifact.path,
            out,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(before)
    return with_file(
        artifact, folder / "artifact", "model.onnx", out.read_bytes(), precision="int8"
    )


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def images(digits: Weights) -> NDArray[np.float32]:
    return digits.preprocessing.normalize(seeded_pixels(digits.config, 8))


@pytest.fixture(scope="module")
def artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("openvino") / "onnx")


@pytest.fixture(scope="module")
def artifacts(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return {
        "onnx": artifact,
        "openvino": packed(artifact, tmp_path_factory.mktemp("openvino") / "ir"),
    }


@pytest.mark.parametrize("batch", [1, 7, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_pytorch_and_onnx_runtime_compute(
    kind: str,
    batch: int,
    artifacts: dict[str, Artifact],
    digits: Weights,
    images: NDArray[np.float32],
) -> None:
    inputs = {"input": images[:batch]}
    with open_backend(artifacts["onnx"], "ort-cpu") as session:
        theirs = session.run(inputs)["logits"]
    with opened(artifacts[kind]) as session:
        any_batch = session.run(inputs)["logits"]
        bound = session.bind(inputs)
        exact_batch, fetched = session.run(inputs)["logits"], bound.fetch()["logits"]
    for logits in (any_batch, exact_batch, fetched):
        # Against float64 even ONNX Runtime loses 1.2e-6 on these images.
        for reference, most in ((theirs, 1e-6), (reference_logits(digits, images[:batch]), 3e-6)):
            outcome = compare(reference, logits)
            assert outcome.passed, outcome.failures
            assert outcome.max_error is not None
            assert outcome.max_error < most


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_resnext50_keeps_to_the_float32_gate(kind: str, tmp_path: Path) -> None:
    weights = seeded_resnext50()
    pixels = weights.preprocessing.normalize(seeded_pixels(weights.config, 8))
    reference = cached_reference_logits(weights, pixels, torch.float64)
    artifact = export_onnx(weights, tmp_path / "onnx", check=False)
    with opened(artifact if kind == "onnx" else packed(artifact, tmp_path / "ir")) as session:
        for batch in (1, 7, 8):
            logits = session.run({"input": pixels[:batch]})["logits"]
            outcome = compare(reference[:batch], logits)
            assert outcome.passed, outcome.failures
            assert (outcome.max_error or 1) < gate_for("fp32").max_error
        assert delivered_share(session.delivered(), weights.config, "float32") == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_static_artifact_takes_its_batch_only(
    kind: str, digits: Weights, images: NDArray[np.float32], tmp_path: Path
) -> None:
    static = export_onnx(digits, tmp_path / "onnx", batch=BatchRange.parse("3"))
    with opened(static if kind == "onnx" else packed(static, tmp_path / "ir")) as session:
        assert session.inputs[0].shape == (3, 1, 8, 8)
        bound = session.bind({"input": images[:3]})
        assert compare(reference_logits(digits, images[:3]), bound.fetch()["logits"]).passed
        with pytest.raises(BadInput, match="batch 4 is not among the artifact's, 3; run it in"):
            session.run({"input": images[:4]})


def test_pixels_go_in_where_preprocessing_is_baked(digits: Weights, tmp_path: Path) -> None:
    baked = packed(export_onnx(digits, tmp_path / "onnx", bake_preprocessing=True), tmp_path / "ir")
    pixels = seeded_pixels(digits.config, 7)
    with opened(baked) as session:
        assert session.inputs[0].dtype == "uint8"
        logits = session.run({"input": pixels})["logits"]
    assert compare(reference_logits(digits, digits.preprocessing.normalize(pixels)), logits).passed


@pytest.mark.parametrize("kind", KINDS)
def test_every_module_is_seen_with_what_it_got(
    kind: str, artifacts: dict[str, Artifact], digits: Weights, images: NDArray[np.float32]
) -> None:
    with opened(artifacts[kind], threads=1) as session:
        for shape in ("any batch", "7x1x8x8"):
            delivered = session.delivered()
            assert undelivered(delivered, digits.config, "float32") == ()
            assert Counter(layer.op for layer in delivered.layers if layer.modules) == {
                "Conv": 13,
                "Gemm": 1,
            }
            assert delivered.device == "cpu"
            assert delivered.notes["shape"] == shape
            assert delivered.notes["threads"] == delivered.notes["streams"] == "1"
            assert "f32" in delivered.notes["kernels"]
            session.bind({"input": images[:7]})


@pytest.mark.skipif(
    "BF16" not in CAPABILITIES, reason="this processor has no bfloat16 instructions"
)
def test_a_quiet_bfloat16_is_seen_and_refused(
    artifact: Artifact,
    digits: Weights,
    images: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(openvino_session._PRECISIONS, "fp32", ov.Type.bf16)
    with pytest.raises(
        SilentFallback, match="fp32 was requested, and OpenVINO computes in bfloat16"
    ):
        opened(artifact)
    monkeypatch.setattr(OpenvinoSession, "_check_precision", lambda *_: None)
    with opened(artifact) as session:
        delivered = session.delivered()
        logits = session.run({"input": images})["logits"]
    assert delivered_share(delivered, digits.config, "float32") < 1
    assert delivered_share(delivered, digits.config, "bfloat16") > 0.9
    assert not compare(reference_logits(digits, images), logits).passed


def test_bfloat16_for_the_bound_shape_alone_is_refused_too(
    artifact: Artifact, images: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(artifact) as session:
        bound = session.bind({"input": images[:2]})
        before = bound.fetch()["logits"]
        monkeypatch.setitem(openvino_session._PRECISIONS, "fp32", ov.Type.bf16)
        with pytest.raises(SilentFallback):
            session.bind({"input": images})
        bound.enqueue()
        np.testing.assert_array_equal(bound.fetch()["logits"], before)


@pytest.mark.skipif("FP16" in CAPABILITIES, reason="this processor has float16 instructions")
def test_float16_that_the_processor_does_not_have_is_refused(
    digits: Weights, tmp_path: Path
) -> None:
    half = export_onnx(digits, tmp_path / "onnx", precision="fp16")
    with pytest.raises(
        SilentFallback, match=r"fp16 was requested, and OpenVINO computes in (bfloat16|float32)"
    ):
        opened(half)


def test_the_cast_behind_a_float16_classifier_belongs_to_it(
    digits: Weights, tmp_path: Path
) -> None:
    """OpenVINO fuses the two, and names the layer after the cast."""
    half = export_onnx(digits, tmp_path / "onnx", precision="fp16")
    model, _memory = READERS["onnx"](ov.Core(), half)
    assert modules_by_node(model)["logits"] == "fc"
    if "FP16" in CAPABILITIES:
        with opened(half) as session:
            assert undelivered(session.delivered(), digits.config, "float16") == ()


def test_threads_that_it_does_not_use_are_refused(artifact: Artifact) -> None:
    with pytest.raises(
        SilentFallback, match=r"10000 threads were requested, and OpenVINO uses \d+"
    ):
        opened(artifact, threads=10_000)


def test_weights_that_were_stored_as_float16_are_caught(artifact: Artifact, tmp_path: Path) -> None:
    graph = tmp_path / "model.xml"
    ov.save_model(ov.Core().read_model(artifact.path), graph)  # what its own default does
    with zipfile.ZipFile(tmp_path / "packed", "w") as out:
        for file in (graph, graph.with_suffix(".bin")):
            out.write(file, file.name)
    data = (tmp_path / "packed").read_bytes()
    compressed = with_file(artifact, tmp_path / "artifact", FILE_NAME, data, kind="openvino")
    with pytest.raises(
        BadArtifact, match=r"does not agree with the file on precision \(the weights are float16"
    ):
        opened(compressed)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["preprocessing"].update(mean=[0.9]), "preprocessing"),
        (lambda m: m["class_names"].reverse(), "class_names"),
        (lambda m: m.update(preprocessing_baked=True), "preprocessing_baked"),
        (lambda m: m["weights"].update(sha256="0" * 64), "weights_sha256"),
        (lambda m: m["inputs"][0].update(name="image"), "inputs"),
        (lambda m: m["outputs"][0].update(name="nope"), "outputs"),
        (lambda m: m.update(precision="fp16"), "precision"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_altered_manifest_is_refused(
    kind: str, change: Callable[[dict[str, Any]], None], named: str, artifacts: dict[str, Artifact]
) -> None:
    manifest = artifacts["onnx"].manifest.model_dump(mode="json")
    change(manifest)
    of = artifacts[kind]
    same = {"kind": kind} | of.manifest.model_dump(
        include={"file", "file_sha256", "file_size_bytes"}
    )
    altered = Artifact(of.directory, Manifest.model_validate(manifest).model_copy(update=same))
    with pytest.raises(BadArtifact, match=rf"does not agree with the file on .*\b{named}"):
        opened(altered)


def test_outputs_belong_to_the_caller(artifact: Artifact, images: NDArray[np.float32]) -> None:
    with opened(artifact) as session:
        first = session.run({"input": images[:2]})["logits"]
        kept = first.copy()
        session.run({"input": images[2:4]})
        assert np.array_equal(first, kept)

        bound = session.bind({"input": images[:2]})
        fetched = bound.fetch()["logits"]
        assert np.array_equal(fetched, kept)
        other = session.run({"input": images[2:4]})[
            "logits"
        ]  # the bound shape, so the same compiled network
        assert not np.array_equal(other, kept)
        assert np.array_equal(bound.fetch()["logits"], kept)
        bound.enqueue()
        bound.synchronize()
        assert np.array_equal(bound.fetch()["logits"], kept)
        bound = session.bind({"input": images[2:4]})
        assert np.array_equal(bound.fetch()["logits"], other)
        assert np.array_equal(fetched, kept)


def test_the_bound_input_is_the_sessions_own(
    artifact: Artifact, images: NDArray[np.float32]
) -> None:
    mine = images[:2].copy()
    with opened(artifact) as session:
        bound = session.bind({"input": mine})
        before = bound.fetch()["logits"]
        mine[:] = 0
        bound.enqueue()
        assert np.array_equal(bound.fetch()["logits"], before)


def test_memory_that_openvino_cannot_take_is_copied(
    artifact: Artifact, images: NDArray[np.float32]
) -> None:
    locked = images.copy()
    locked.setflags(write=False)
    spread = np.repeat(images, 2, axis=0)[::2]
    unaligned = (
        np.frombuffer(b"x" + images.tobytes(), np.uint8)[1:].view(np.float32).reshape(images.shape)
    )
    with opened(artifact) as session:
        want = session.run({"input": images})["logits"]
        for array in (locked, spread, unaligned, np.asfortranarray(images)):
            assert np.array_equal(session.run({"input": array})["logits"], want)
            bound = session.bind({"input": array})
            assert np.array_equal(bound.fetch()["logits"], want)


def test_nan_that_the_network_makes_reaches_the_parity_check(
    artifact: Artifact, digits: Weights, images: NDArray[np.float32], tmp_path: Path
) -> None:
    proto = onnx.load(artifact.path)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[3] = np.nan
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    broken = with_file(artifact, tmp_path / "a", "model.onnx", proto.SerializeToString())
    with opened(broken) as session:
        logits = session.run({"input": images})["logits"]
    assert np.isnan(logits[:, 3]).all()
    assert "8 NaN" in compare(reference_logits(digits, images), logits).failures[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_whose_nan_relu_would_hide_is_refused(
    value: float, artifact: Artifact, images: NDArray[np.float32]
) -> None:
    poisoned = images.copy()
    poisoned[5, 0, 3, 3] = value
    with opened(artifact) as session:
        with pytest.raises(BadInput, match="holds NaN or infinity"):
            session.run({"input": poisoned})
        with pytest.raises(BadInput, match="holds NaN or infinity"):
            session.bind({"input": poisoned})


def test_wrong_inputs_are_told_as_every_session_tells_them(
    artifact: Artifact, images: NDArray[np.float32]
) -> None:
    with opened(artifact) as session:
        for call in (session.run, session.bind):
            with pytest.raises(BadInput, match="dtype float64, want float32"):
                call({"input": images.astype(np.float64)})
            with pytest.raises(BadInput, match="must be named"):
                call({"image": images})
            with pytest.raises(BadInput, match="shape 0x1x8x8"):
                call({"input": images[:0]})


def test_closing_twice_is_fine_and_nothing_runs_afterwards(
    artifacts: dict[str, Artifact], images: NDArray[np.float32]
) -> None:
    inputs = {"input": images}
    for artifact in artifacts.values():
        session = opened(artifact)
        bound = session.bind(inputs)
        session.close()
        session.close()
        for call in (session.run, session.bind):
            with pytest.raises(SessionFailed, match="closed"):
                call(inputs)
        for later in (bound.enqueue, bound.fetch, session.delivered):
            with pytest.raises(SessionFailed):
                later()


def test_a_quantized_network_runs_in_integers(
    artifact: Artifact, digits: Weights, images: NDArray[np.float32], tmp_path: Path
) -> None:
    onnx_int8 = quantized(artifact, images, tmp_path / "int8")
    reference = reference_logits(digits, images)
    given = []
    for subject in (onnx_int8, packed(onnx_int8, tmp_path / "ir")):
        with opened(subject) as session:
            delivered = session.delivered()
            given.append(session.run({"input": images})["logits"])
        convolutions = [layer for layer in delivered.layers if layer.op == "Conv"]
        assert {layer.dtype for layer in convolutions} <= {"uint8", "int8"}
        assert len({module for layer in convolutions for module in layer.modules}) == 13
        assert delivered_share(delivered, digits.config, "float32") == 0
        error = compare(reference, given[-1]).max_error
        assert error is not None
        assert 1e-4 < error < 0.2  # an integer network, and still this one
    assert np.array_equal(given[0], given[1])


def test_a_gpu_is_refused(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="runs on cpu only; drop `device` cuda"):
        open_backend(artifact, "openvino", options=SessionOptions(device="cuda"))


def test_an_engine_is_refused(artifact: Artifact) -> None:
    engine = Artifact(artifact.directory, artifact.manifest.model_copy(update={"kind": "trt"}))
    with pytest.raises(UsageError, match="is of kind trt; use `backend` trt"):
        open_backend(engine, "openvino")


def test_a_device_that_openvino_does_not_have_is_named(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_session, "_DEVICE", "ABACUS")
    with pytest.raises(
        MissingRequirement,
        match=r"no device ABACUS .*not registered.*; install the package openvino again",
    ):
        opened(artifact)


def test_running_out_of_memory_says_what_to_do(
    artifact: Artifact, images: NDArray[np.float32]
) -> None:
    class Full:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def set_tensor(self, *_: object) -> None:
            raise self.error

    with opened(artifact) as session:
        for error in (MemoryError(), RuntimeError("Exception from a.cpp:1:\nstd::bad_alloc\n\n")):
            session._runners = [Full(error)]
            with pytest.raises(MissingRequirement, match="out of memory; use a smaller `batch`"):
                session.run({"input": images})
        error = RuntimeError("Exception from a.cpp:1:\nCheck 'x' failed\nthe reason\n\n")
        session._runners = [Full(error)]
        with pytest.raises(SessionFailed, match=r"^openvino failed: the reason$"):
            session.run({"input": images})


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_weights(data: bytes) -> bytes:
    return rezipped(data, lambda name: name != "model.bin")


def compressed(data: bytes) -> bytes:
    return rezipped(data, lambda _: True, zipfile.ZIP_DEFLATED)


def other_graph(data: bytes) -> bytes:
    return data.replace(b'<net name="', b'<nut name="').replace(b"</net>", b"</nut>")


def rezipped(data: bytes, keep: Callable[[str], bool], method: int = zipfile.ZIP_STORED) -> bytes:
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in filter(keep, old.namelist()):
            new.writestr(name, old.read(name))
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [half, lambda _: b"not a model"])
def test_a_file_that_is_no_model_is_told_in_one_line(
    kind: str, damage: Callable[[bytes], bytes], artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    whole = artifacts[kind]
    broken = with_file(whole, tmp_path / "a", whole.manifest.file, damage(whole.path.read_bytes()))
    with pytest.raises(BadArtifact) as caught:
        opened(broken)
    assert str(broken.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [without_weights, compressed, other_graph])
def test_a_packed_ir_that_is_not_as_written_is_refused(
    damage: Callable[[bytes], bytes], artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    data = damage(artifacts["openvino"].path.read_bytes())
    with pytest.raises(BadArtifact, match=r"model\.ovir"):
        opened(with_file(artifacts["openvino"], tmp_path / "a", FILE_NAME, data))


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['openvino'] = None\n"
        "from resnext.runtimes import registry\n"
        "from resnext.errors import MissingRequirement\n"
        "try:\n"
        "    registry.load_door('openvino')\n"
        "except MissingRequirement as exc:\n"
        "    print(exc)\n"
        "    sys.exit(exc.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 3, done.stderr
    assert "pip install openvino" in done.stdout


def test_importing_it_reports_to_nobody(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from resnext_export.convert import openvino_from_onnx\n"
        "from resnext.runtimes.openvino import session\n"
        "assert 'openvino' in sys.modules\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
    )
    root = Path(__file__).parents[3]
    quiet = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "TF_BUILD", "JENKINS_URL")
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**quiet, "HOME": str(tmp_path), "PYTHONPATH": f"{root}:{root / 'export'}"},
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []  # the folder for the identity that it reports under


def test_the_metadata_of_an_ir_is_readable_without_the_toolkit(
    artifacts: dict[str, Artifact],
) -> None:
    with zipfile.ZipFile(artifacts["openvino"].path) as ir:
        graph = ir.read("model.xml").decode()
    assert "resnext.class_names" in graph
    names = artifacts["openvino"].manifest.class_names
    assert json.dumps(list(names)).replace('"', "&quot;") in graph


def test_opening_warns_of_nothing(artifact: Artifact) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened(artifact).close()
    assert caught == []


def test_a_signal_finds_its_handler_after_two_sessions_closed_in_order(artifact: Artifact) -> None:
    """Two cores of OpenVINO that go in the order in which they came leave a freed signal stack
    behind.
    """
    code = (
        "import signal, sys\nfrom pathlib import Path\nfrom resnext.artifact.files import"
        " read_artifact\nfrom resnext.runtimes.registry import open_session\nfirst, second ="
        " (open_session(read_artifact(Path(sys.argv[1])), 'openvino') for _ in"
        " range(2))\nfirst.close(); del first\nsecond.close(); del"
        " second\nsignal.signal(signal.SIGTERM, lambda *_: print('handled',"
        " flush=True))\nsignal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact.directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
