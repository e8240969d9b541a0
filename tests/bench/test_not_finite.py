"""NaN and infinity fail on every path from a network to a verdict: one row for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from exported import export_onnx
from fakes.calm import calm
from resnext.artifact.files import Artifact
from resnext.errors import BadInput, BadWeights, GateFailed, ResnextError
from resnext.images.sources import image_source
from resnext.images.synthetic import seeded_pixels
from resnext.precision import NUMERICS, PRESETS
from resnext.runtimes.ort.session import OrtSession
from resnext.testing import FakeSession
from resnext.verify.accuracy import accuracy_failures, accuracy_from_logits
from resnext.verify.adversarial import compare_adversarial
from resnext.verify.check import check
from resnext.verify.parity import compare, gate_for
from resnext.verify.reference import Reference
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import Weights, load_weights
from resnext_bench.cases import Candidate
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples, Subject
from resnext_bench.opening import Opening
from resnext_bench.plan import Case, Plan
from resnext_bench.rows import Judge
from resnext_export.calibration.activations import activation_ranges, overflows
from resnext_export.calibration.collect import calibrate

LOGITS = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("sound") / "artifact", check=False)


def poisoned(logits: NDArray[Any], value: float, row: int = -1) -> NDArray[Any]:
    logits = logits.copy()
    logits[row, 3] = value
    return logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("precision", NUMERICS)
def test_no_gate_lets_it_pass(value: float, preset: str, precision: str) -> None:
    bad = poisoned(LOGITS, value)
    outcome = compare(LOGITS, bad, gate=preset, precision=precision, baseline=LOGITS)
    assert not outcome.passed
    kinds, failures = compare_adversarial(
        [str(row) for row in range(len(bad))],
        LOGITS,
        bad,
        gate=gate_for(precision, preset),
        baseline=LOGITS,
        saturates=NUMERICS[precision].calibrated,
    )
    assert failures == ("NaN or infinite logits on 11",)
    assert [kind.finite for kind in kinds] == [True] * 11 + [False]


def test_a_quantized_network_without_a_graph_must_be_finite_too() -> None:
    gate = gate_for("int8")
    bad = poisoned(LOGITS, np.nan)
    names = [str(row) for row in range(len(bad))]
    _, failures = compare_adversarial(names, LOGITS, bad, gate=gate, saturates=True)
    assert failures == ("NaN or infinite logits on 11",)
    assert compare_adversarial(names, LOGITS, -LOGITS, gate=gate, saturates=True)[1] == ()


def test_only_where_the_precision_itself_overflows_a_candidate_may() -> None:
    bad, gate = poisoned(LOGITS, np.inf), gate_for("fp16")
    names = [str(row) for row in range(len(bad))]
    kinds, failures = compare_adversarial(names, LOGITS, bad, gate=gate, baseline=bad)
    assert failures == ()
    assert [kind.left_out for kind in kinds] == [0] * 11 + [1]


def of_accuracy(value: float, digits: Weights, **_: Any) -> None:
    source = image_source("digits", digits.preprocessing, split="test", limit=12)
    assert source.labels is not None
    hits = np.eye(10, dtype=np.float32)[source.labels]
    accuracy = accuracy_from_logits(
        poisoned(hits, value), hits, source.labels, source=source, backend="fake"
    )
    assert accuracy.nonfinite == 1
    raise GateFailed(accuracy_failures(accuracy, min_agreement=0, max_top1_loss=1)[0])


def of_an_export(
    value: float, digits: Weights, patch: pytest.MonkeyPatch, tmp_path: Path, **_: Any
) -> None:
    _poison_ort(value, patch)
    export_onnx(digits, tmp_path / "artifact")


def of_a_check(value: float, artifact: Artifact, patch: pytest.MonkeyPatch, **_: Any) -> None:
    _poison_ort(value, patch)
    outcome = check(artifact, runtime="ort-cpu", images=7)
    raise GateFailed("; ".join(outcome.failures))


def of_an_activation(value: float, artifact: Artifact, tmp_path: Path, **_: Any) -> None:
    path = _poisoned_graph(artifact, value, tmp_path)
    ranges = activation_ranges(path, np.zeros((1, 1, 8, 8), np.float32))
    beyond = [each for each in overflows(ranges, "fp16", headroom=1.0) if each.beyond]
    raise GateFailed(str(beyond[0]))


def of_calibration(value: float, artifact: Artifact, tmp_path: Path, **_: Any) -> None:
    path = _poisoned_graph(artifact, value, tmp_path)
    images = np.ones((1, 1, 8, 8), np.float32)
    calibrate(path, [images], "minmax", source="ones", source_sha256="a" * 64)


def of_calibration_images(value: float, artifact: Artifact, **_: Any) -> None:
    images = np.full((1, 1, 8, 8), value, np.float32)
    calibrate(artifact.path, [images], "minmax", source="planted", source_sha256="a" * 64)


def of_weights_in_memory(value: float, digits: Weights, tmp_path: Path, **_: Any) -> None:
    export_onnx(_poisoned_weights(digits, value), tmp_path / "artifact")


def of_a_checkpoint(value: float, digits: Weights, tmp_path: Path, **_: Any) -> None:
    save_weights(_poisoned_weights(digits, value), tmp_path / "bad.safetensors")
    load_weights(str(tmp_path / "bad.safetensors"))


def _poison_ort(value: float, patch: pytest.MonkeyPatch) -> None:
    real = OrtSession.run

    def run(self: OrtSession, inputs: Any) -> Any:
        return {name: poisoned(logits, value) for name, logits in real(self, inputs).items()}

    patch.setattr(OrtSession, "run", run)


def _poisoned_graph(artifact: Artifact, value: float, folder: Path) -> Path:
    proto = onnx.load(artifact.path)
    bias = next(each for each in proto.graph.initializer if len(each.dims) == 1)
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), value, np.float32), bias.name))
    onnx.save(proto, folder / "bad.onnx")
    return folder / "bad.onnx"


def _poisoned_weights(digits: Weights, value: float) -> Weights:
    state = {**digits.state_dict, "fc.bias": torch.full((10,), value)}
    return Weights(digits.config, state, "bad", digits.preprocessing, digits.class_names)


#: Each path, with the error that ends it.
PATHS: dict[Callable[..., None], tuple[type[ResnextError], str]] = {
    of_accuracy: (GateFailed, "1 of 12 images give NaN or infinite logits"),
    of_an_export: (GateFailed, "NaN and . infinite values, first in row 0"),
    of_a_check: (GateFailed, "NaN and . infinite values, first in row 6"),
    of_an_activation: (GateFailed, "nan|inf"),
    of_calibration: (BadInput, "NaN or infinite"),
    of_calibration_images: (BadInput, "NaN or infinite"),
    of_weights_in_memory: (GateFailed, "NaN or infinite logits for these weights"),
    of_a_checkpoint: (BadWeights, "NaN or inf"),
}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_it_ends_every_path(
    path: Callable[..., None],
    value: float,
    digits: Weights,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    kind, message = PATHS[path]
    with pytest.raises(kind, match=message):
        path(value, digits=digits, artifact=artifact, patch=monkeypatch, tmp_path=tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["a row that is compared", "another row", "adversarial inputs"])
def test_it_makes_a_row_of_the_benchmark_invalid(
    where: str, value: float, digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch)
    reference = Reference(digits, seeded_pixels(digits.config, 40))
    timed = reference.logits("float32").astype(np.float32)
    extreme = reference.logits("float32", range(40, 40 + len(reference.adversarial.names))).astype(
        np.float32
    )
    if where == "adversarial inputs":
        extreme = poisoned(extreme, value)
    else:
        timed = poisoned(timed, value, 39 if where == "a row that is compared" else 1)
    answers = np.resize(extreme, (40, 10))
    session = FakeSession(lambda _: answers, (1, 8, 8), 10)
    inputs = {"input": reference.images}
    opening = Opening(Subject(session, inputs, session.bind(inputs)), setup_s=0, bind_s=0)
    samples = Samples([[1000] * 5] * 5, output=timed)
    plan = Plan((Case("torch", 40),))
    judge = Judge(reference, None, None, Deadline(), plan)  # type: ignore[arg-type]  # no environment
    row = judge.row(Case("torch", 40), Candidate(), opening, samples)
    assert row.status == "invalid"
    assert "wrong output" in "; ".join(row.reasons)
    assert "infinite" in "; ".join(row.reasons)
