"""Checking an artifact from Python, and what it costs: weights and reference are computed once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from exported import export_onnx
from resnext import check
from resnext.artifact.files import Artifact
from resnext.errors import BadArtifact, BadWeights, GateFailed, UnknownName, UsageError
from resnext.images.adversarial import adversarial_inputs
from resnext.images.synthetic import seeded_pixels
from resnext.runtimes.ort.session import OrtSession
from resnext.verify import eager
from resnext.verify.reference import Reference
from resnext.weights import checkpoint, spec
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import Weights, load_weights
from resnext_export.cli.export import main as export_main


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("check") / "artifact", check=False)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that weights were read from."""
    files: list[str] = []
    real = checkpoint.read_weights

    def counting(path: Path, *args: Any, **kwargs: Any) -> Weights:
        files.append(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(spec, "read_weights", counting)
    return files


def test_a_folder_a_file_and_an_artifact_are_the_same(artifact: Artifact) -> None:
    outcomes = [
        check(subject, images=8)
        for subject in (artifact, artifact.directory, str(artifact.directory), artifact.path)
    ]
    assert all(outcome.passed for outcome in outcomes)
    assert {outcome.artifact_sha256 for outcome in outcomes} == {artifact.manifest.file_sha256}


def test_the_number_of_images_is_rounded_up_to_whole_batches(artifact: Artifact) -> None:
    assert check(artifact, images=8).rows == 14
    assert check(artifact, images=5, batch=5).rows == 5
    assert check(artifact, images=1, batch=3).rows == 3


def test_float32_pytorch_is_the_other_reference(artifact: Artifact) -> None:
    exact, rounded = (check(artifact, images=7, reference=name) for name in ("torch", "torch-fp32"))
    assert exact.passed
    assert rounded.passed
    assert exact.error_ratio is not None
    assert rounded.error_ratio is None  # float32 PyTorch is what float32 costs
    with pytest.raises(UnknownName, match="torch-fp32"):
        check(artifact, reference="torch-fp16")  # type: ignore[arg-type]


def test_a_batch_that_fits_into_no_memory_is_refused_at_once(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match=r"takes \d+ GB, more than half"):
        check(artifact, batch=10**9)


@pytest.mark.parametrize("call", [{"images": 0}, {"seed": -1}, {"batch": 0}])
def test_a_call_that_is_off_is_refused(artifact: Artifact, call: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        check(artifact, **call)  # type: ignore[arg-type]


def test_a_runtime_that_gives_something_else_fails(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrtSession.run

    def swapped(self: OrtSession, inputs: Any) -> Any:
        return {name: logits[::-1] for name, logits in real(self, inputs).items()}

    monkeypatch.setattr(OrtSession, "run", swapped)
    outcome = check(artifact, runtime="ort-cpu")
    assert not outcome.passed
    assert "rows are swapped" in outcome.failures[-1]


def test_other_bytes_than_the_manifests_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(artifact.directory, folder)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(BadArtifact):
        check(folder)


def test_other_weights_are_refused_by_spec_and_fail_as_an_object(artifact: Artifact) -> None:
    other = load_weights("seeded", artifact.manifest.config)
    with pytest.raises(BadWeights, match="not those"):
        check(artifact, weights="seeded")
    with pytest.raises(BadArtifact, match="other class names"):
        check(artifact, weights=other)


def test_weights_that_give_nan_prove_nothing(weights: Weights, tmp_path: Path) -> None:
    broken = Weights(
        weights.config,
        {**weights.state_dict, "fc.bias": torch.full((10,), torch.nan)},
        "broken",
        weights.preprocessing,
        weights.class_names,
    )
    with pytest.raises(GateFailed, match="NaN or infinite"):
        check(export_onnx(broken, tmp_path / "nan", check=False), weights=broken)


def test_weights_are_loaded_once_or_not_at_all(
    artifact: Artifact, weights: Weights, loads: list[str]
) -> None:
    assert check(artifact, weights=weights, images=7).passed
    assert loads == []
    assert check(artifact, images=7).passed
    assert loads == ["digits.safetensors"]


@pytest.mark.exhaustive
def test_an_int8_export_loads_the_weights_once(
    weights: Weights, loads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    save_weights(weights, tmp_path / "mine.safetensors")
    command = ["--format", "onnx", "--precision", "int8", "--calibration", "digits"]
    options = ["--weights", str(tmp_path / "mine.safetensors"), "--output", str(tmp_path / "int8")]
    result = CliRunner().invoke(export_main, [*command, *options])
    assert result.exit_code == 0, result.output
    assert loads == ["mine.safetensors"]


# What PyTorch gives.


@pytest.fixture
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Element type and number of images of each call of the model; nothing is cached on disk."""
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    calls: list[tuple[str, int]] = []
    real = eager.reference_logits

    def counting(weights: Weights, images: Any, dtype: torch.dtype = torch.float64) -> Any:
        calls.append((str(dtype).removeprefix("torch."), len(images)))
        return real(weights, images, dtype)

    monkeypatch.setattr(eager, "reference_logits", counting)
    return calls


def test_every_image_is_computed_once_at_each_precision(
    weights: Weights, computed: list[tuple[str, int]]
) -> None:
    reference = Reference(weights, seeded_pixels(weights.config, 6))
    some = reference.logits(rows=[4, 1, 4])
    whole = reference.logits()
    np.testing.assert_array_equal(some, whole[[4, 1, 4]])
    assert reference.baseline("fp32") is not None
    assert reference.baseline("tf32", rows=[0, 5]) is not None
    assert reference.baseline("fp16") is not None
    want = [("float64", 2), ("float64", 4), ("float32", 6), ("float16", 2), ("float16", 4)]
    assert computed == want


def test_the_reference_is_no_baseline_of_itself(weights: Weights) -> None:
    reference = Reference(weights, seeded_pixels(weights.config, 2))
    assert reference.baseline("fp32", against="float32") is None
    assert reference.baseline("int8") is None  # PyTorch does not run it, and no file is named


def test_a_check_computes_reference_and_baseline_once(
    artifact: Artifact, computed: list[tuple[str, int]]
) -> None:
    assert check(artifact, images=8).passed
    adversarial = len(
        adversarial_inputs(artifact.manifest.network, artifact.manifest.prepared).names
    )
    want = [(dtype, count) for count in (14, adversarial) for dtype in ("float64", "float32")]
    assert computed == want


def test_a_file_is_evaluated_once_for_each_image(
    artifact: Artifact, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def emulated(_artifact: Artifact, inputs: Any) -> Any:
        counts.append(len(inputs))
        return np.ones((len(inputs), 10), np.float32)

    monkeypatch.setattr("resnext.runtimes.onnx_reference.evaluator.emulated_logits", emulated)
    reference = Reference(weights, seeded_pixels(weights.config, 5))
    for rows in ([0, 2], None, [4]):
        reference.baseline("int8", graph=artifact, rows=rows)
    assert counts == [2, 3]
