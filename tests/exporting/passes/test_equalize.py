"""Equalized ranges: the same function to the last bit, outlier channels mended, and a file that
says otherwise than it does refused.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from exported import export_onnx
from fakes.outliers import with_outliers
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import Manifest
from resnext.errors import BadArtifact, BadInput, GateFailed, UsageError
from resnext.images.sources import image_source
from resnext.images.synthetic import seeded_pixels
from resnext.readers.files import file_sha256
from resnext.runtimes.trt.identity import engine_name
from resnext.verify.held.artifact import check_graph, differences
from resnext.weights.spec import Weights
from resnext_export.calibration.channels import channel_maxima
from resnext_export.derivation import derivation
from resnext_export.passes.base import run_pass
from resnext_export.passes.chains import chains
from resnext_export.passes.equalize import Equalize, chosen_exponents
from resnext_export.passes.lower import Lower
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.pipeline import run
from resnext_export.request import ExportRequest

Edit = Callable[[onnx.ModelProto], None]

#: A channel 256 times as wide as its neighbors, and one of a grouped convolution's outputs.
OUTLIERS = {"layer1.0.conv1": {3: 256.0}, "layer2.0.conv2": {5: 64.0}}


@pytest.fixture(scope="module")
def proto(digits_artifact: Artifact) -> onnx.ModelProto:
    return onnx.load(digits_artifact.path)


@pytest.fixture(scope="module")
def images(digits: Weights) -> NDArray[np.float32]:
    return digits.preprocessing.normalize(seeded_pixels(digits.config, 8))


@pytest.fixture(scope="module")
def wide(digits: Weights) -> Weights:
    return with_outliers(digits, OUTLIERS)


@pytest.fixture(scope="module")
def wide_parent(wide: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(wide, tmp_path_factory.mktemp("wide") / "fp32", check=False)


@pytest.fixture(scope="module")
def equalized(
    wide_parent: Artifact, wide: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return exported(wide_parent, wide, tmp_path_factory.mktemp("equalized") / "int8", equalize=True)


def exported(parent: Artifact, weights: Weights, folder: Path, **fields: Any) -> Artifact:
    fields = {"precision": "int8", "calibration_images": 64, "onnx": parent.directory, **fields}
    return run(ExportRequest(**fields), folder, weights=weights, check=False)


def logits(proto: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.float32] = session.run(None, {"input": images})[0]
    return result


def random_exponents(proto: onnx.ModelProto, seed: int = 0) -> dict[str, tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    weights = {each.name: each for each in proto.graph.initializer}
    return {
        chain.first.name: tuple(
            map(int, generator.integers(-6, 7, weights[chain.first.input[1]].dims[0]))
        )
        for chain in chains(proto.graph)
    }


def edited(name: str, change: Callable[[NDArray[Any]], Any]) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        tensor = next(each for each in proto.graph.initializer if each.name == name)
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(array.copy()).astype(array.dtype), name))

    return edit


def scaled(name: str, channel: Any, factor: float) -> Edit:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[channel] *= factor
        return array

    return edited(name, change)


# ---- the same function


@pytest.mark.parametrize("width", [None, 16])
def test_any_powers_of_two_leave_every_bit_of_the_logits(
    width: int | None, proto: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    if width:
        proto = run_pass(MergeGroups(width), proto).proto
    result = run_pass(Equalize(random_exponents(proto)), proto)
    assert result.changed == tuple(chain.first.name for chain in chains(proto.graph))
    assert result.max_error == 0
    np.testing.assert_array_equal(logits(result.proto, images), logits(proto, images))


def test_channels_are_moved_inside_blocks_alone(proto: onnx.ModelProto) -> None:
    """What the stem and a block's sum write has several readers."""
    assert [(chain.first.name, chain.second.name) for chain in chains(proto.graph)] == [
        (f"layer{stage}.0.conv{first}", f"layer{stage}.0.conv{first + 1}")
        for stage in (1, 2, 3)
        for first in (1, 2)
    ]


@pytest.mark.parametrize(
    ("fault", "says"),
    {
        "the reader is not multiplied back": (
            scaled("layer1.0.conv2.weight", (slice(None), 0), 0.5),
            r"layer1\.0\.conv1 to layer1\.0\.conv3 changed what they compute",
        ),
        "a bias is not divided": (
            scaled("layer2.0.conv1.weight_bias", 3, 2.0),
            "changed what they",
        ),
        "another channel": (
            edited("layer1.0.conv3.weight", lambda array: np.roll(array, 1, axis=1)),
            "changed what they",
        ),
        "a negative factor": (
            lambda proto: (
                scaled("layer1.0.conv1.weight", 1, -1)(proto),
                scaled("layer1.0.conv1.weight_bias", 1, -1)(proto),
            ),
            "changed what they compute, by inf",
        ),
        "another layer": (scaled("fc.bias", 0, 2.0), "changed node fc"),
        "another stage's convolution": (scaled("conv1.weight", 0, 2.0), "changed node conv1"),
        "metadata": (
            lambda proto: onnx.helper.set_model_props(proto, {"resnext.model": "other"}),
            "changed inputs, outputs or metadata",
        ),
    }.values(),
)
def test_a_pass_that_changes_the_function_is_caught(
    fault: Edit, says: str, proto: onnx.ModelProto
) -> None:
    class Faulty(Equalize):
        def apply(self, proto: onnx.ModelProto) -> Any:
            result = super().apply(proto)
            fault(result.proto)
            return result

    with pytest.raises(GateFailed, match=says):
        run_pass(Faulty(random_exponents(proto)), proto)


@pytest.mark.parametrize(
    ("exponents", "says"),
    [
        ({"conv1": (0,) * 16}, "'conv1' is no convolution with 16 channels to move"),
        ({"layer1.0.conv1": (1,)}, "no convolution with 1 channels"),
        ({"layer1.0.conv1": (17, *[0] * 31)}, "beyond -16 to 16"),
    ],
)
def test_exponents_of_another_graph_are_refused(
    exponents: Any, says: str, proto: onnx.ModelProto
) -> None:
    with pytest.raises(UsageError, match=says):
        run_pass(Equalize(exponents), proto)


def test_only_the_float32_graph_is_equalized(proto: onnx.ModelProto) -> None:
    half = run_pass(Lower("fp16"), proto).proto
    with pytest.raises(BadInput, match="other weights than float32"):
        run_pass(Equalize(random_exponents(half)), half)


# ---- which channels


def test_the_planted_channels_are_found_and_no_others(wide_parent: Artifact, wide: Weights) -> None:
    proto = onnx.load(wide_parent.path)
    source = image_source("digits", wide.preprocessing, split="calibration", limit=64)
    batch = source.preprocessing.normalize(source.pixels(0, 64))
    names = [chain.tensor for chain in chains(proto.graph)]
    largest = channel_maxima(wide_parent.path, [batch[:40], batch[40:]], names)
    found = {
        name: {place: each for place, each in enumerate(exponents) if each}
        for name, exponents in chosen_exponents(proto, largest).items()
    }
    assert found.keys() == OUTLIERS.keys()
    for name, channels in OUTLIERS.items():
        assert found[name].keys() == channels.keys()
        for channel, factor in channels.items():
            assert abs(found[name][channel] - np.log2(factor)) <= 1


@pytest.mark.parametrize(
    ("activation", "weight"),
    [(0.0, 1.0), (1e6, 0.0), (1e6, 1e-35), (1e6, 1e30)],
    ids=["never active", "never read", "nearly subnormal", "nearly infinite"],
)
def test_a_channel_that_no_scale_helps_stays(
    activation: float, weight: float, proto: onnx.ModelProto
) -> None:
    planted = onnx.ModelProto()
    planted.CopyFrom(proto)
    scaled("layer1.0.conv3.weight", (slice(None), 7), weight)(planted)
    largest = {
        chain.tensor: np.ones(len(exponents), np.float32)
        for chain, exponents in zip(
            chains(proto.graph), random_exponents(proto).values(), strict=True
        )
    }
    chain = next(each for each in chains(proto.graph) if each.first.name == "layer1.0.conv2")
    largest[chain.tensor][7] = activation
    assert not chosen_exponents(planted, largest).get("layer1.0.conv2", (0,) * 8)[7]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_channels_are_not_judged_by_numbers_that_are_none(
    value: float, digits_artifact: Artifact, images: NDArray[np.float32]
) -> None:
    odd = images.copy()
    odd[3] = value
    tensor = chains(onnx.load(digits_artifact.path).graph)[0].tensor
    with pytest.raises(BadInput, match="is NaN or infinite for one of the images"):
        channel_maxima(digits_artifact.path, [odd], [tensor])


def test_channels_need_images(digits_artifact: Artifact) -> None:
    with pytest.raises(BadInput, match="no images"):
        channel_maxima(digits_artifact.path, [], ["relu"])


# ---- artifacts


def test_an_outlier_that_ruins_int8_costs_nothing_once_it_is_moved(
    equalized: Artifact, wide_parent: Artifact, wide: Weights, tmp_path: Path
) -> None:
    plain = exported(wide_parent, wide, tmp_path / "plain")
    source = image_source("digits", wide.preprocessing, split="test")
    images = source.preprocessing.normalize(source.pixels(0, len(source)))
    wanted = logits(onnx.load(wide_parent.path), images)
    loss = {
        name: float(np.sqrt(np.mean((logits(onnx.load(each.path), images) - wanted) ** 2)))
        / float(np.sqrt(np.mean(wanted**2)))
        for name, each in (("plain", plain), ("equalized", equalized))
    }
    assert loss["plain"] > 0.3
    assert loss["equalized"] < 0.03


@pytest.mark.parametrize(
    "fields",
    [
        {"runtime": "trt"},
        {"runtime": "openvino", "merge_groups": 16},
        {"precision": "fp8", "merge_groups": 32},
    ],
    ids=["trt", "openvino, merged", "fp8, merged"],
)
def test_every_scheme_is_held_with_what_was_moved(
    fields: dict[str, Any], wide_parent: Artifact, wide: Weights, tmp_path: Path
) -> None:
    artifact = exported(wide_parent, wide, tmp_path / "scheme", equalize=True, **fields)
    assert artifact.manifest.equalized is not None
    assert artifact.manifest.equalized.exponents.keys() == OUTLIERS.keys()
    assert not differences(artifact, wide)
    # Without the record, the weights are another network's.
    assert differences(resealed(artifact, tmp_path / "silent", exponents={}), wide)


def test_even_ranges_stay_and_the_export_says_so(
    digits_artifact: Artifact, digits: Weights, tmp_path: Path
) -> None:
    said: list[str] = []
    request = ExportRequest(
        precision="int8", calibration_images=64, onnx=digits_artifact.directory, equalize=True
    )
    artifact = run(request, tmp_path / "even", weights=digits, check=False, say=said.append)
    assert said == ["equalizing moved no channel: the ranges are even already"]
    assert artifact.manifest.equalized is not None
    assert artifact.manifest.equalized.exponents == {}
    assert derivation(artifact.manifest)[-1] == "equalized no channel: the ranges are even"


def resealed(
    artifact: Artifact,
    folder: Path,
    edit: Edit = lambda _: None,
    exponents: dict[str, Any] | None = None,
) -> Artifact:
    """A copy whose bytes, records and manifest fit each other again."""
    shutil.copytree(artifact.directory, folder)
    path = folder / artifact.manifest.file
    manifest = json.loads(artifact.manifest.to_json())
    proto = onnx.load(path)
    edit(proto)
    if exponents is not None:
        manifest["equalized"]["exponents"] = exponents
        written = {entry.key: entry.value for entry in proto.metadata_props}
        record = Manifest.model_validate_json(json.dumps(manifest)).equalized
        assert record is not None
        written["resnext.equalized"] = record.model_dump_json()
        onnx.helper.set_model_props(proto, written)
    path.write_bytes(proto.SerializeToString())
    manifest |= {"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_artifact(folder)


def moved(artifact: Artifact) -> dict[str, dict[int, int]]:
    assert artifact.manifest.equalized is not None
    return dict(artifact.manifest.equalized.exponents)


@pytest.mark.parametrize(
    ("change", "says"),
    {
        "no record of a stage": (
            lambda record: {"layer2.0.conv2": record["layer2.0.conv2"]},
            r"layer1\.0\.conv1: 1 of 32 weight scales",
        ),
        "a wider move than the file's": (
            lambda record: record | {"layer1.0.conv1": {3: 16}},
            r"layer1\.0\.conv1: 1 of 32 weight scales",
        ),
        "another channel": (
            lambda record: record | {"layer2.0.conv2": {6: record["layer2.0.conv2"][5]}},
            r"layer2\.0\.conv2: 2 of 64 weight scales",
        ),
        "a move that did not happen": (
            lambda record: record | {"layer3.0.conv2": {0: 1}},
            r"layer3\.0\.conv2: 1 of 128 weight scales",
        ),
        "a move behind the stem": (
            lambda record: record | {"conv1": {0: 1}},
            r"moves channels \[0\] behind conv1, which no export does",
        ),
        "a move behind a sum": (
            lambda record: record | {"layer1.0.conv3": {0: 1}},
            r"moves channels \[0\] behind layer1\.0\.conv3, which no export does",
        ),
        "a channel that there is not": (
            lambda record: record | {"layer1.0.conv1": {3: 8, 32: 1}},
            r"moves channels \[3, 32\] behind layer1\.0\.conv1",
        ),
        "no channel": (
            lambda record: record | {"layer1.0.conv1": {}},
            r"moves channels \[\] behind layer1\.0\.conv1",
        ),
    }.values(),
)
def test_a_record_that_is_not_the_files_is_refused(
    change: Any, says: str, equalized: Artifact, wide: Weights, tmp_path: Path
) -> None:
    other = resealed(equalized, tmp_path / "other", exponents=change(moved(equalized)))
    assert any(re.search(says, line) for line in differences(other, wide)), differences(other, wide)


@pytest.mark.parametrize("side", ["written", "read"])
def test_a_move_of_one_side_alone_is_refused(
    side: str, equalized: Artifact, wide: Weights, tmp_path: Path
) -> None:
    """Either with the record that fits the side, or without: neither cancels."""
    name = "layer3.0.conv1.weight" if side == "written" else "layer3.0.conv2.weight"
    parts = ("scale", "bias_quantized_scale") if side == "written" else ("scale",)
    edits = [scaled(f"{name}_{part}", 4, 0.25) for part in parts]

    def edit(proto: onnx.ModelProto) -> None:
        for each in edits:
            each(proto)

    for folder, more in (
        ("silent", {}),
        ("recorded", {"layer3.0.conv1": {4: 2}}),
    ):
        other = resealed(equalized, tmp_path / folder, edit, exponents={**moved(equalized), **more})
        assert differences(other, wide)


@pytest.mark.parametrize("record", [None, {"exponents": {}}])
def test_a_record_in_the_manifest_alone_is_refused(
    record: Any, equalized: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(equalized.directory, folder)
    manifest = json.loads(equalized.manifest.to_json()) | {"equalized": record}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="does not agree with the file on equalized"):
        check_graph(read_artifact(folder))


def test_a_manifest_moves_channels_of_quantized_networks_alone(
    digits_artifact: Artifact,
) -> None:
    manifest = json.loads(digits_artifact.manifest.to_json()) | {"equalized": {"exponents": {}}}
    with pytest.raises(ValueError, match="no moved ranges"):
        Manifest.model_validate_json(json.dumps(manifest))


def test_the_name_of_an_engine_covers_what_was_moved(equalized: Artifact) -> None:
    manifest = equalized.manifest
    other = manifest.model_copy(update={"equalized": None})
    assert engine_name(manifest, refittable=False) != engine_name(other, refittable=False)
    assert derivation(manifest)[-1] == (
        "equalized 2 channels behind 2 convolutions, by factors up to 256"
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"precision": "fp16"}, "`equalize` is for int8 and fp8"),
        ({}, "`equalize` is for int8 and fp8"),
        ({"format": "pt2"}, "drop `equalize`"),
    ],
)
def test_what_is_not_quantized_is_not_equalized(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ExportRequest(equalize=True, **fields)


def test_the_step_before_is_the_plain_export() -> None:
    request = ExportRequest(format="openvino", precision="int8", equalize=True)
    parent, quantized, _ = request.steps()
    assert (parent.equalize, quantized.equalize) == (False, True)
    assert ExportRequest(**quantized.record()) == quantized
    assert "equalize" not in parent.record()
