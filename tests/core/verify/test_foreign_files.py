"""ONNX classifiers from elsewhere: adopted by what their graphs say, compared with themselves."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file

from exported import export_onnx
from fakes import foreign
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.foreign import adopt, open_artifact
from resnext.artifact.trust import Trust
from resnext.cli.parity import main
from resnext.errors import BadArtifact, BadInput, UsageError
from resnext.runtimes.onnx_reference.float64 import Float64Evaluator
from resnext.runtimes.onnx_reference.windows import AveragePool, Conv, MaxPool
from resnext.runtimes.ort.session import OrtSession
from resnext.verify.adversarial import compare_adversarial
from resnext.verify.check import check
from resnext.verify.parity import gate_for
from resnext.weights.spec import load_weights

#: What the graph of each classifier says.
FACTS: dict[str, tuple[str, str, tuple[int | None, ...]]] = {
    "mobile": ("fp32", "1..any", (None, 3, 32, 32)),
    "nhwc": ("fp32", "1..any", (None, 24, 20, 3)),
    "pixels": ("fp32", "1..any", (None, 3, 16, 16)),
    "fixed batch": ("fp32", "4", (4, 3, 16, 16)),
    "rows": ("fp32", "1..any", (None, 12)),
    "old": ("fp32", "1..any", (None, 3, 16, 16)),
    "attention": ("fp32", "1..any", (None, 3, 16, 16)),
    "half": ("fp16", "1..any", (None, 3, 16, 16)),
    "quantized": ("int8", "1..any", (None, 3, 16, 16)),
}


def test_the_facts_are_of_every_classifier() -> None:
    assert FACTS.keys() == foreign.CLASSIFIERS.keys()


@pytest.mark.parametrize("name", foreign.CLASSIFIERS)
def test_a_classifier_is_compared_with_itself(name: str, tmp_path: Path) -> None:
    path = foreign.write(foreign.CLASSIFIERS[name](), tmp_path / "model.onnx")
    artifact = adopt(path)
    manifest = artifact.manifest
    assert (manifest.precision, manifest.batches(), manifest.inputs[0].shape) == FACTS[name]
    assert (manifest.config, manifest.preprocessing, manifest.class_names) == (None, None, ())
    assert artifact.read() == path.read_bytes()
    for runtime in foreign.runtimes_for(manifest.precision):
        outcome = check(artifact, runtime=runtime, images=8)
        assert outcome.passed, outcome.failures
        assert outcome.reference == "onnx"
        assert "cannot be known" in outcome.unknown


@pytest.mark.parametrize("name", foreign.REFUSED)
def test_what_is_no_classifier_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, message = foreign.REFUSED[name]
    path = foreign.write(make(), tmp_path / "model.onnx")
    with pytest.raises(BadArtifact, match=message) as refused:
        open_artifact(path)
    assert "\n" not in str(refused.value)
    done = CliRunner().invoke(main, ["--artifact", str(path)])
    assert done.exit_code == 4


def _shifted(logits: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(logits + np.eye(1, logits.shape[1], 2, dtype=logits.dtype) * 1e-3)


#: What a broken runtime makes of right logits.
FAULTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "one logit shifted": _shifted,
    "rows swapped": lambda logits: logits[::-1],
    "scaled": lambda logits: logits * np.float32(1.001),
    "NaN": lambda logits: np.where(logits == logits.max(), np.nan, logits).astype(logits.dtype),
    "classes rolled": lambda logits: np.roll(logits, 1, axis=1),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["mobile", "nhwc", "rows"])
def test_a_runtime_with_wrong_logits_is_caught(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign.write(foreign.CLASSIFIERS[name](), tmp_path / "model.onnx")
    right = OrtSession.run

    def wrong(self: OrtSession, inputs: Any) -> dict[str, NDArray[Any]]:
        return {key: FAULTS[fault](value) for key, value in right(self, inputs).items()}

    monkeypatch.setattr(OrtSession, "run", wrong)
    assert not check(path, images=8, reference="onnx").passed


def _one_weight(model: onnx.ModelProto, factor: float) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    ("name", "factor"), [("mobile", 1.001), ("half", 1.5), ("quantized", -1.0)]
)
def test_a_runtime_that_loads_another_weight_is_caught(
    name: str, factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = foreign.CLASSIFIERS[name]()
    artifact = adopt(foreign.write(model, tmp_path / "model.onnx"))
    assert check(artifact, images=8).passed
    _one_weight(model, factor)
    data = model.SerializeToString()
    monkeypatch.setattr("resnext.runtimes.ort.provider.onnx_bytes", lambda _: data)
    assert not check(artifact, images=8).passed


def test_tensors_beside_the_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    path = foreign.write_external(foreign.mobile(), tmp_path / "model.onnx", "weights/all.bin")
    assert check(path, images=8).passed
    inside = adopt(foreign.write(foreign.mobile(), tmp_path / "inside.onnx"))
    assert adopt(path).manifest.weights.sha256 == inside.manifest.weights.sha256


def _external(tmp_path: Path, **entries: str) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = foreign.write_external(foreign.mobile(), folder / "model.onnx")
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    for key, value in entries.items():
        known = [entry for entry in tensor.external_data if entry.key == key]
        entry = known[0] if known else tensor.external_data.add(key=key)
        entry.value = value
    return foreign.write(model, path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, r"in '\.\./secret', outside the folder"),
        ({"location": "{root}/secret"}, r"outside the folder"),
        ({"location": "link"}, r"in 'link', outside the folder"),
        ({"location": ""}, r"outside the folder"),
        ({"location": "absent"}, r"cannot read .*absent: No such file"),
        ({"location": "pipe"}, r"it is a pipe"),
        ({"offset": "-1"}, r"an offset or length that is no whole number"),
        ({"offset": "99999999"}, r"ends before the values"),
        ({"length": "123456789012"}, r"more than 2 GB"),
        ({"length": "4"}, r"does not have the values that its shape says"),
    ],
)
def test_tensors_elsewhere_are_refused(
    entries: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    named = {key: value.format(root=tmp_path) for key, value in entries.items()}
    path = _external(tmp_path, **named)
    (path.parent / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(path.parent / "pipe")
    done = CliRunner().invoke(main, ["--artifact", str(path)])
    assert done.exit_code == 4
    assert re.search(message, done.stderr), done.stderr


def test_tensors_that_cannot_be_read_are_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _external(tmp_path, location="mem")
    (path.parent / "mem").write_bytes(bytes(10))

    class Broken(io.BytesIO):
        def fileno(self) -> int:
            return broken.fileno()

        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, f"Input/output error after {size}")

    monkeypatch.setattr("resnext.readers.foreign.open_file", lambda *_: Broken())
    with path.open("rb") as broken, pytest.raises(BadInput, match=r"mem: Input/output error"):
        adopt(path)


def test_an_open_size_has_to_be_said(tmp_path: Path) -> None:
    path = foreign.write(foreign.open_size(), tmp_path / "model.onnx")
    done = CliRunner().invoke(main, ["--artifact", str(path)])
    assert done.exit_code == 2
    assert "say them with --input-size, for example 224x224" in done.stderr
    done = CliRunner().invoke(main, ["--artifact", str(path), "--input-size", "24x32"])
    assert done.exit_code == 0, done.stderr
    artifact = adopt(path, input_size=(24, 32))
    assert artifact.manifest.inputs[0].shape == (None, 3, 24, 32)
    sized = foreign.write(foreign.mobile(), tmp_path / "sized.onnx")
    with pytest.raises(UsageError, match="has a size already"):
        adopt(sized, input_size=(24, 32))


def test_the_screen_and_the_json_say_what_cannot_be_known(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    target = tmp_path / "parity.json"
    done = CliRunner().invoke(main, ["--artifact", str(path), "--json", str(target)])
    assert done.exit_code == 0, done.stderr
    assert f"PASS  {path} on ort against the file itself in float64" in done.stdout
    assert "whether it is the trained network" in done.stdout
    stored = json.loads(target.read_text())
    assert stored["reference"] == "onnx"
    assert "whether it is the trained network" in stored["unknown"]


def test_a_foreign_file_has_no_network_to_be_compared_with(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    done = CliRunner().invoke(main, ["--artifact", str(path), "--reference", "torch"])
    assert done.exit_code == 2
    assert "no PyTorch network to compare with; compare it with itself: --reference onnx" in (
        done.stderr
    )


def test_a_bare_file_has_no_folder_for_a_verdict(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    done = CliRunner().invoke(main, ["--artifact", str(path), "--verdict"])
    assert done.exit_code == 2
    assert "no folder for a verdict" in done.stderr


def test_rows_of_a_foreign_file_are_independent(tmp_path: Path) -> None:
    path = foreign.write(foreign.attention(), tmp_path / "model.onnx")
    done = CliRunner().invoke(main, ["--artifact", str(path), "--batch-integrity"])
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("part", [1.0, 0.3])
def test_a_mean_over_the_batch_breaks_independence(part: float, tmp_path: Path) -> None:
    graph = foreign.Graph()
    out = graph.add("MatMul", "x", graph.weight(12, foreign.CLASSES))
    mean = graph.add("ReduceMean", out, axes=[0], keepdims=1)
    mean = graph.add("Mul", mean, graph.store(np.float32(part))) if part != 1 else mean
    model = graph.model(("N", 12), [graph.add("Sub", out, mean)])
    path = foreign.write(model, tmp_path / "model.onnx")
    done = CliRunner().invoke(main, ["--artifact", str(path), "--batch-integrity"])
    assert done.exit_code == 1
    assert "not independent" in done.stderr
    done = CliRunner().invoke(main, ["--artifact", str(path)])
    assert done.exit_code == 1
    assert "check its parity with --batch-integrity" in done.stderr


def test_a_newer_ir_version_is_said_in_plain_words(tmp_path: Path) -> None:
    model = foreign.attention()
    model.ir_version = 99
    done = CliRunner().invoke(
        main, ["--artifact", str(foreign.write(model, tmp_path / "model.onnx"))]
    )
    assert done.exit_code == 4
    assert re.search(r"has IR version 99, and ONNX Runtime \S+ reads \d+ at most", done.stderr)


def test_an_operator_that_the_reference_lacks_is_named(tmp_path: Path) -> None:
    graph = foreign.Graph()
    pooled = graph.add("GlobalLpPool", "x", p=2)
    flat = graph.add("Flatten", pooled)
    model = graph.model(("N", 3, 8, 8), [graph.add("MatMul", flat, graph.weight(3, 10))])
    path = foreign.write(model, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="lacks GlobalLpPool of opset 17"):
        check(path)


def test_a_file_that_normalizes_pixels_itself_gets_its_range(tmp_path: Path) -> None:
    graph = foreign.Graph(2)
    scaled = graph.add("Div", "x", graph.store(np.float32(255)))
    flat = graph.add("Flatten", scaled)
    product = graph.add("MatMul", flat, graph.weight(192, foreign.CLASSES))
    shift = graph.store(np.linspace(3, 5, foreign.CLASSES, dtype=np.float32))
    model = graph.model(("N", 3, 8, 8), [graph.add("Add", product, shift)])
    outcome = check(foreign.write(model, tmp_path / "model.onnx"), images=8)
    assert outcome.passed
    assert outcome.inputs[0].name == "seeded, 0 to 255"


def test_a_required_signature_is_required_of_a_bare_file(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    with pytest.raises(BadArtifact, match="sign"):
        adopt(path, trust=Trust(required=True))


def test_a_graph_that_grows_faster_than_the_batch_is_refused(tmp_path: Path) -> None:
    graph = foreign.Graph()
    out = graph.add("MatMul", "x", graph.weight(12, foreign.CLASSES))
    pairs = graph.add("MatMul", out, graph.add("Transpose", out, perm=[1, 0]))
    model = graph.model(("N", 12), [graph.add("MatMul", pairs, out)])
    with pytest.raises(BadArtifact, match="grows faster than the batch"):
        adopt(foreign.write(model, tmp_path / "model.onnx"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    weights = load_weights("digits")
    return export_onnx(weights, tmp_path_factory.mktemp("digits") / "onnx", check=False)


def test_our_own_artifact_is_compared_with_itself(digits: Artifact) -> None:
    outcome = check(digits, reference="onnx", images=8)
    assert outcome.passed
    assert outcome.reference == "onnx"
    assert check(digits, images=8).reference == "torch"


def test_our_own_artifact_of_another_kind_is_compared_with_pytorch(digits: Artifact) -> None:
    manifest = digits.manifest.model_copy(update={"kind": "openvino"})
    with pytest.raises(UsageError, match="only an ONNX file can be computed"):
        check(dataclasses.replace(digits, manifest=manifest), reference="onnx")


def _computed(node: onnx.NodeProto, x: NDArray[Any], stored: dict[str, Any], own: Any) -> Any:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [info("x", TensorProto.DOUBLE, x.shape)],
        [info("y", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    results: Any = ReferenceEvaluator(model, new_ops=own).run(None, {"x": x})
    return results[0]


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["none", "one", "upper", "lower", "ceil"])
def test_fast_windows_are_those_of_the_reference_evaluator(
    kernel: int, stride: int, padding: str
) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 4, 6, 7))
    pool: dict[str, Any] = {"kernel_shape": [kernel] * 2}
    how: dict[str, Any] = {"strides": [stride] * 2}
    if padding in ("upper", "lower"):
        how["auto_pad"] = f"SAME_{padding.upper()}"
    if padding in ("one", "ceil"):
        how["pads"] = [min(1, kernel - 1)] * 4
    stored = {"w": random.standard_normal((6, 2, kernel, kernel)), "b": random.standard_normal(6)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, **how)
    assert _same(node, x, stored, Conv)
    if padding == "ceil":
        how["ceil_mode"] = 1
    if padding in ("none", "one"):  # the evaluator's own pools are wrong elsewhere
        assert _same(helper.make_node("MaxPool", ["x"], ["y"], **pool, **how), x, {}, MaxPool)
        node = helper.make_node("AveragePool", ["x"], ["y"], **pool, **how)
        assert _same(node, x, {}, AveragePool)


def _same(node: onnx.NodeProto, x: NDArray[Any], stored: dict[str, Any], own: Any) -> bool:
    ours, theirs = (_computed(node, x, stored, each) for each in ([own], None))
    return bool(ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=0, atol=1e-12))


def test_quantization_costs_what_its_steps_do() -> None:
    model = foreign.quantized()
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    exact, free = Float64Evaluator(model)(x), Float64Evaluator(model, cost=True)(x)
    lost = np.abs(exact - free).max() / np.sqrt(np.mean(exact**2))
    assert 1e-4 < lost < 0.1


def test_a_folder_is_read_as_before(digits: Artifact) -> None:
    assert open_artifact(digits.directory) == read_artifact(digits.directory)


def test_where_float32_itself_is_lost_only_finiteness_counts() -> None:
    gate = gate_for("fp32")
    want = np.ones((2, 8)) * [[1.0], [1e-46]]
    lost = want * [[1.0], [0.0]]  # the second underflows

    def compared(*rows: float) -> tuple[str, ...]:
        got = want * np.array(rows)[:, None]
        how: dict[str, Any] = {"gate": gate, "baseline": lost, "loss": 1e-6}
        return compare_adversarial(("sound", "lost"), want, got, **how, lossy=True)[1]

    assert compared(1.0, 0.0) == ()
    assert "sound" in compared(1.001, 0.0)[0]
    assert compared(1.0, np.nan) == ("NaN or infinite logits on lost",)
    kinds, failures = compare_adversarial(
        ("sound", "lost"), want, lost, gate=gate, baseline=lost, loss=1e-6
    )
    assert "lost" in failures[0]
    assert kinds[0].allowed <= gate.max_error


def test_a_network_that_underflows_is_no_fault_of_the_runtime(tmp_path: Path) -> None:
    graph = foreign.Graph(5)
    out = graph.add("MatMul", "x", graph.weight(12, 16))
    out = graph.add("Mul", out, graph.add("Sigmoid", out))
    out = graph.add("Mul", out, graph.store(np.float32(1e-8)))
    model = graph.model(("N", 12), [graph.add("MatMul", out, graph.weight(16, foreign.CLASSES))])
    outcome = check(foreign.write(model, tmp_path / "model.onnx"), images=8)
    assert outcome.passed, outcome.failures
    (denormals,) = [each for each in outcome.inputs if each.name == "denormals"]
    assert (denormals.max_error, denormals.finite) == (None, True)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_a_checkpoint_is_not_an_artifact(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file({"w": torch.zeros(2)}, path)
    else:
        torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(BadArtifact, match="is a checkpoint, and no artifact") as caught:
        open_artifact(path)
    assert caught.value.hint == "export it first: name it in `weights` there"
