"""Corrected biases: they mend what rounded weights take from every output, and no other number
passes for one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from exported import export_onnx
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import QuantizationRecord
from resnext.errors import BadArtifact, BadInput, GateFailed, UnknownName, UsageError
from resnext.images.sources import image_source
from resnext.readers.files import file_sha256
from resnext.verify.held.artifact import check_graph, differences
from resnext.weights.spec import Weights
from resnext_export.calibration.channels import tensor_means
from resnext_export.derivation import derivation
from resnext_export.passes.base import run_pass
from resnext_export.passes.correct_bias import CorrectBias
from resnext_export.pipeline import run
from resnext_export.request import ExportRequest

Edit = Callable[[onnx.ModelProto], None]

LAYER = "layer2.0.conv2"
BIAS = f"{LAYER}.weight_bias_quantized"


@pytest.fixture(scope="module")
def coarse(digits: Weights) -> Weights:
    """In each row of a grouped convolution one weight is so large that the others lose their last
    bits; those are made to be rounded all in one direction.
    """
    state = dict(digits.state_dict)
    weight = state[f"{LAYER}.weight"].clone()
    rows = weight.flatten(1)
    largest = rows.abs().amax(dim=1)
    step = 8 * largest / 64
    rows[:] = ((rows / step[:, None]).round() + 0.4) * step[:, None]
    rows[:, 0] = 8 * largest
    state[f"{LAYER}.weight"] = weight
    return replace(digits, state_dict=state)


@pytest.fixture(scope="module")
def parent(coarse: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(coarse, tmp_path_factory.mktemp("coarse") / "fp32", check=False)


def exported(parent: Artifact, weights: Weights, folder: Path, **fields: Any) -> Artifact:
    fields = {"precision": "int8", "calibration_images": 64, "onnx": parent.directory, **fields}
    return run(ExportRequest(**fields), folder, weights=weights, check=False)


@pytest.fixture(scope="module")
def plain(parent: Artifact, coarse: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported(parent, coarse, tmp_path_factory.mktemp("plain") / "int8")


@pytest.fixture(scope="module")
def corrected(
    parent: Artifact, coarse: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder = tmp_path_factory.mktemp("corrected") / "int8"
    return exported(parent, coarse, folder, correct_bias=True)


def logits(artifact: Artifact, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"input": images})[0]
    return result


def means_of(artifact: Artifact) -> dict[str, float]:
    record = artifact.manifest.quantization
    assert record is not None
    assert record.means is not None
    return record.means


def edited(name: str, change: Callable[[NDArray[Any]], Any]) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        tensor = next(each for each in proto.graph.initializer if each.name == name)
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(array.copy()).astype(array.dtype), name))

    return edit


def resealed(
    artifact: Artifact, folder: Path, edit: Edit = lambda _: None, means: Any = ...
) -> Artifact:
    """A copy whose bytes, records and manifest fit each other again."""
    shutil.copytree(artifact.directory, folder)
    path = folder / artifact.manifest.file
    manifest = json.loads(artifact.manifest.to_json())
    proto = onnx.load(path)
    edit(proto)
    if means is not ...:
        manifest["quantization"]["means"] = means
        record = QuantizationRecord.model_validate_json(json.dumps(manifest["quantization"]))
        written = {entry.key: entry.value for entry in proto.metadata_props}
        written["resnext.quantization"] = record.model_dump_json()
        onnx.helper.set_model_props(proto, written)
    path.write_bytes(proto.SerializeToString())
    manifest |= {"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_artifact(folder)


def test_weights_that_are_rounded_in_one_direction_cost_less_once_biases_are_corrected(
    parent: Artifact, plain: Artifact, corrected: Artifact, coarse: Weights
) -> None:
    source = image_source("digits", coarse.preprocessing, split="test")
    images = source.preprocessing.normalize(source.pixels(0, len(source)))
    wanted = logits(parent, images)
    before, after = (
        float(np.sqrt(np.mean((logits(each, images) - wanted) ** 2) / np.mean(wanted**2)))
        for each in (plain, corrected)
    )
    assert after < before / 2


def test_a_mean_is_of_every_value_that_a_convolution_reads(
    parent: Artifact, corrected: Artifact, coarse: Weights
) -> None:
    source = image_source("digits", coarse.preprocessing, split="calibration", limit=64)
    images = source.preprocessing.normalize(source.pixels(0, 64))
    found = tensor_means(parent.path, [images[:40], images[40:]], ["input"])
    assert found["input"] == pytest.approx(float(images.mean()), abs=1e-6)
    assert means_of(corrected)["conv1"] == found["input"]
    assert len(means_of(corrected)) == 13


@pytest.mark.parametrize(
    "fields",
    [
        {"runtime": "trt"},
        {"runtime": "openvino", "merge_groups": 16, "equalize": True},
        {"precision": "fp8", "merge_groups": 32},
    ],
    ids=["trt", "openvino, merged, equalized", "fp8, merged"],
)
def test_every_scheme_is_held_with_its_corrected_biases(
    fields: dict[str, Any], parent: Artifact, coarse: Weights, tmp_path: Path
) -> None:
    artifact = exported(parent, coarse, tmp_path / "scheme", correct_bias=True, **fields)
    assert not differences(artifact, coarse)
    silent = resealed(artifact, tmp_path / "silent", means=None)
    assert re.search("biases are not the network's", "; ".join(differences(silent, coarse)))


def test_a_sound_file_has_nothing_to_name_and_says_what_was_done(
    plain: Artifact, corrected: Artifact, coarse: Weights
) -> None:
    assert not differences(plain, coarse)
    assert not differences(corrected, coarse)
    assert "corrected the biases of 13 convolutions" in derivation(corrected.manifest)
    assert not any("corrected" in line for line in derivation(plain.manifest))


@pytest.mark.parametrize(
    ("edit", "means", "says"),
    {
        "a bias beyond what rounding explains": (
            edited(BIAS, lambda array: array + (np.arange(len(array)) == 3) * 3),
            None,
            rf"{LAYER}: 1 of 64 biases are not the network's",
        ),
        "another mean": (
            lambda _: None,
            lambda means: {**means, LAYER: 0.9 * means[LAYER]},
            rf"{LAYER}: \d+ of 64 biases are not the network's",
        ),
        "a mean outside of the range": (
            lambda _: None,
            lambda means: {**means, LAYER: -1.0},
            rf"{LAYER}: the manifest's mean of its input is -1, outside of the calibrated range 0",
        ),
        "a mean far above the range": (
            lambda _: None,
            lambda means: {**means, LAYER: 1e6},
            "outside of the calibrated range",
        ),
    }.values(),
)
def test_a_bias_that_rounding_does_not_explain_is_named(
    edit: Edit, means: Any, says: str, corrected: Artifact, coarse: Weights, tmp_path: Path
) -> None:
    changes = {} if means is None else {"means": means(means_of(corrected))}
    other = resealed(corrected, tmp_path / "other", edit, **changes)
    said = differences(other, coarse)
    assert any(re.search(says, line) for line in said), said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda means: {**means, "fc": 0.1}, "has a mean for fc, and an export one for each"),
        (lambda means: {"conv1": means["conv1"]}, "has no mean for layer1.0.conv1"),
    ],
)
def test_a_record_of_other_layers_is_refused(
    change: Any, says: str, corrected: Artifact, tmp_path: Path
) -> None:
    other = resealed(corrected, tmp_path / "other", means=change(means_of(corrected)))
    with pytest.raises(BadArtifact, match=says):
        check_graph(other)


@pytest.mark.parametrize(
    ("fault", "says"),
    {
        "the other sign": (
            edited(BIAS, lambda array: array - 1000),
            rf"left 64 channels of '{LAYER}' wrong",
        ),
        "one channel": (
            edited(BIAS, lambda array: array + (np.arange(len(array)) == 9) * 2000),
            rf"left 1 channels of '{LAYER}' wrong",
        ),
        "another tensor": (
            edited("fc.bias", lambda array: array * 2),
            "changed something else in the graph",
        ),
    }.values(),
)
def test_a_pass_that_corrects_wrongly_is_caught(
    fault: Edit, says: str, parent: Artifact, plain: Artifact, corrected: Artifact
) -> None:
    class Faulty(CorrectBias):
        def apply(self, proto: onnx.ModelProto) -> Any:
            result = super().apply(proto)
            fault(result.proto)
            return result

    original, proto = onnx.load(parent.path), onnx.load(plain.path)
    assert run_pass(CorrectBias(original, means_of(corrected)), proto).changed
    with pytest.raises(GateFailed, match=says):
        run_pass(Faulty(original, means_of(corrected)), proto)


def test_only_quantized_convolutions_of_both_graphs_are_corrected(
    parent: Artifact, plain: Artifact
) -> None:
    original, proto = onnx.load(parent.path), onnx.load(plain.path)
    with pytest.raises(UnknownName, match="nowhere"):
        run_pass(CorrectBias(original, {"nowhere": 1.0}), proto)
    with pytest.raises(BadInput, match="weight of convolution 'conv1' is not quantized"):
        run_pass(CorrectBias(original, {"conv1": 1.0}), original)


@pytest.mark.parametrize(
    "field", [{"equalize": True}, {"correct_bias": True}, {"calibration_method": "percentile"}]
)
def test_what_is_quantized_already_is_not_mended_in_silence(
    field: dict[str, Any], plain: Artifact, coarse: Weights, tmp_path: Path
) -> None:
    (name,) = field
    request = ExportRequest(precision="int8", onnx=plain.directory, merge_groups=16, **field)
    with pytest.raises(UsageError, match=rf"is quantized already, and `{name}` says how to"):
        run(request, tmp_path / "again", weights=coarse, check=False)


def test_what_is_not_quantized_is_not_corrected() -> None:
    with pytest.raises(UsageError, match="`correct_bias` is for int8 and fp8"):
        ExportRequest(correct_bias=True, precision="fp16")
    request = ExportRequest(format="openvino", precision="int8", correct_bias=True)
    assert [step.correct_bias for step in request.steps()] == [False, True, True]
