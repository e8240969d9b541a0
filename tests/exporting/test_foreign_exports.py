"""ONNX classifiers from elsewhere: adopted into artifacts, converted, made again, inspected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from PIL import Image

from fakes import foreign
from resnext.artifact.files import Artifact
from resnext.artifact.foreign import open_artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.cli.classify import main as classify
from resnext.errors import BadArtifact, BadWeights, GateFailed, UsageError
from resnext.verify.check import check
from resnext_export import export
from resnext_export.cli.export import main
from resnext_export.formats.tensorrt import check_parent
from resnext_export.pipeline import rebuild


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("pixels", "attention")
        else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in foreign.CLASSIFIERS
    ],
)
def test_a_classifier_becomes_artifacts(name: str, tmp_path: Path) -> None:
    path = foreign.write(foreign.CLASSIFIERS[name](), tmp_path / "model.onnx")
    for kind in ("onnx", "openvino"):
        artifact = export(path, tmp_path / kind, format=kind)
        manifest = artifact.manifest
        assert (manifest.kind, manifest.config, manifest.preprocessing) == (kind, None, None)
        assert manifest.check is not None
        assert manifest.weights.source == str(path)
        outcome = check(artifact.directory, images=8)
        assert (outcome.passed, outcome.reference) == (True, "onnx")
        assert rebuild(artifact.directory).manifest.file_sha256 == manifest.file_sha256
    assert (tmp_path / "onnx/model.onnx").read_bytes() == path.read_bytes()


@pytest.fixture
def adopted(tmp_path: Path) -> Artifact:
    path = foreign.write_external(foreign.mobile(), tmp_path / "model.onnx")
    return export(path, tmp_path / "adopted")


def test_an_adopted_file_needs_no_other(adopted: Artifact, tmp_path: Path) -> None:
    shutil.move(tmp_path / "weights.bin", tmp_path / "moved.bin")
    assert check(adopted.directory, images=8).passed
    assert export(adopted, tmp_path / "ir", format="openvino").manifest.parent_sha256 == (
        adopted.manifest.file_sha256
    )


def test_an_ir_without_its_onnx_file_says_where_it_was(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    artifact = export(path, tmp_path / "ir", format="openvino")
    path.rename(tmp_path / "moved.onnx")
    with pytest.raises(BadWeights, match=r"no ONNX file at .*if it moved, name it in `weights`"):
        check(artifact)
    assert check(artifact, weights=str(tmp_path / "moved.onnx"), images=8).passed
    other = foreign.write(foreign.nhwc(), tmp_path / "other.onnx")
    with pytest.raises(BadWeights, match="is not the ONNX file that"):
        check(artifact, weights=str(other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "does not agree with the file on precision"),
        ({"opset": 20}, "does not agree with the file on opset"),
        ({"weights": {"sha256": "0" * 64}}, "does not agree with the file on weights"),
        ({"batch": {"max": 8}}, "does not agree with the file on batch"),
        ({"outputs": [{"shape": [None, 9]}]}, "does not agree with the file on outputs"),
        ({"model": "resnext50_32x4d"}, "without a config has no model"),
    ],
)
def test_an_edited_manifest_is_noticed(
    changes: dict[str, object], message: str, adopted: Artifact
) -> None:
    path = adopted.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, value in changes.items():
        if isinstance(value, dict):
            manifest[name] |= value
        elif isinstance(value, list):
            manifest[name][0] |= value[0]
        else:
            manifest[name] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match=message):
        check(adopted.directory)


def test_a_conversion_that_changes_a_weight_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    changed = foreign.mobile()
    tensor = changed.graph.initializer[0]
    values = numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    data = changed.SerializeToString()
    monkeypatch.setattr("resnext_export.formats.openvino.onnx_bytes", lambda _: data)
    with pytest.raises(GateFailed, match="does not compute what the ONNX file computes"):
        export(path, tmp_path / "ir", format="openvino")
    assert not (tmp_path / "ir").exists()


def test_a_file_whose_external_tensors_changed_is_not_made_again(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    artifact = export(path, tmp_path / "adopted")
    model = onnx.load(path)
    model.graph.initializer[1].raw_data = bytes(len(model.graph.initializer[1].raw_data))
    foreign.write(model, path)
    with pytest.raises(BadWeights, match="has other weights than the artifact was made from"):
        rebuild(artifact.directory)


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_the_screen_says_what_is_not_known(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    shown = invoke("--format", "onnx", "--onnx", path, "--output", tmp_path / "out")
    assert f"model     not known, weights {path}, fp32" in shown
    assert "note      the file is its own reference" in shown
    assert "against the ONNX file in float64" in shown
    for subject in (path, tmp_path / "out"):
        seen = invoke("inspect", subject)
        assert f"model      not known, weights {path}, fp32" in seen
        assert "note       the file is its own reference" in seen
        assert "float32 in 100.0%" in seen
    bill = tmp_path / "bill.json"
    invoke("inspect", tmp_path / "out", "--sbom", bill)
    assert '"modelArchitecture": "not known"' in bill.read_text()


def test_an_open_size_is_fixed_and_made_again(tmp_path: Path) -> None:
    path = foreign.write(foreign.open_size(), tmp_path / "model.onnx")
    how = ("--format", "openvino", "--onnx", path, "--output", tmp_path / "out")
    done = CliRunner().invoke(main, [*map(str, how)])
    assert done.exit_code == 2
    assert "say them with --input-size" in done.stderr
    invoke(*how, "--input-size", "24x16")
    artifact = open_artifact(tmp_path / "out")
    assert artifact.manifest.inputs[0].shape == (None, 3, 24, 16)
    assert check(artifact, images=8).passed
    rebuild(artifact.directory)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--format", "onnx", "--precision", "fp16"], "proven on graphs that this toolkit exports"),
        (["--format", "onnx", "--merge-groups", "8"], "cannot be proven on"),
        (["--format", "openvino", "--weights", "digits"], "has its own weights; drop --weights"),
        (["--format", "openvino", "--model", "resnext50_32x4d"], "has its own model; drop it"),
        (["--format", "pt2"], "made from the weights, not from an ONNX artifact"),
    ],
)
def test_what_needs_a_network_is_refused(more: list[str], message: str, tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    done = CliRunner().invoke(main, [*more, "--onnx", str(path), "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_pictures_are_not_classified_without_preprocessing(adopted: Artifact) -> None:
    done = CliRunner().invoke(classify, ["--artifact", str(adopted.directory), "photo.png"])
    assert done.exit_code == 2
    assert "nobody said how a picture becomes the input of model.onnx" in done.stderr


def test_a_requested_preprocessing_makes_pictures_classifiable(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    how = (
        "--format",
        "onnx",
        "--onnx",
        path,
        "--output",
        tmp_path / "out",
        "--mean",
        "0.4,0.5,0.6",
    )
    done = CliRunner().invoke(main, [*map(str, how)])
    assert done.exit_code == 2
    assert "needs both --mean and --std" in done.stderr
    shown = invoke(*how, "--std", "0.2,0.2,0.2", "--resize", "40")
    assert "pixels    requested: resize 40, crop 32x32" in shown
    Image.new("RGB", (50, 60), "red").save(tmp_path / "red.png")
    done = CliRunner().invoke(
        classify, ["--artifact", str(tmp_path / "out"), str(tmp_path / "red.png")]
    )
    assert done.exit_code == 0, done.stderr
    assert rebuild(tmp_path / "out").manifest.preprocessing_source == "requested"
    pixels = foreign.write(foreign.pixels(), tmp_path / "pixels.onnx")
    more = ["--onnx", str(pixels), "--mean", "0.4,0.5,0.6", "--std", "1,1,1"]
    done = CliRunner().invoke(main, ["--format", "onnx", *more])
    assert done.exit_code == 2
    assert "is not N x C x H x W of floats" in done.stderr


def test_an_engine_is_built_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    how = ("--format", "trt-rtx", "--onnx", path, "--batch", "1:4:8", "--output")
    shown = invoke(*how, tmp_path / "engine")
    assert "not known, weights" in shown


def test_a_stripped_engine_has_no_checkpoint_to_be_filled_from(tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    profile = BatchRange(min=1, opt=4, max=8)
    options = EngineOptions(profiles=(profile,), strip_weights=True)
    with pytest.raises(UsageError, match="are in no checkpoint; drop it"):
        check_parent(open_artifact(path), options)
