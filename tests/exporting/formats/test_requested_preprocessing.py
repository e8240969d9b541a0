"""Preprocessing that the checkpoint does not declare: requested or assumed, said everywhere, and
the same again whenever the weights are loaded anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from exported import relabeled
from fakes.calm import calm
from resnext.artifact.files import Artifact, read_artifact
from resnext.cli.classify import main as classify
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact, BadWeights
from resnext.images.preprocessing import default_preprocessing
from resnext.images.requested import PreprocessingOptions
from resnext.network.config import ResNeXtConfig
from resnext.verify.assumed import CODE
from resnext.verify.check import as_recorded, check, recorded_weights
from resnext.weights.conditioned import seeded_state_dict
from resnext.weights.spec import load_weights
from resnext_bench import benchmark
from resnext_bench.cli.bench import main as bench
from resnext_export.cli.export import main as export
from resnext_export.pipeline import export as exported
from resnext_export.pipeline import rebuild
from resnext_export.sbom import sbom

CONFIG = ResNeXtConfig((1, 1), 4, 4, (32, 32), 3, 10, stem="imagenet", stem_channels=8)
REQUESTED = ("--resize", "40", "--interpolation", "bicubic", "--mean", "0.4,0.5,0.6")
SAID = "how a picture becomes the input of these weights is assumed: resize 37, crop 32x32"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network as a training script saves it."""
    path = tmp_path_factory.mktemp("trained") / "tiny.pth"
    torch.save(dict(seeded_state_dict(CONFIG, 5)), path)
    return path


def run(checkpoint: Path, folder: Path, *options: str) -> tuple[Artifact, Result]:
    arguments = ["--format", "onnx", "--weights", str(checkpoint), "--input-size", "32x32"]
    result = CliRunner().invoke(export, [*arguments, *options, "--output", str(folder)])
    assert result.exit_code == 0, result.output
    return read_artifact(folder), result


@pytest.fixture(scope="module")
def unsaid(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Result]:
    return run(checkpoint, tmp_path_factory.mktemp("assumed") / "out")


@pytest.fixture(scope="module")
def plain(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Result]:
    return run(checkpoint, tmp_path_factory.mktemp("requested") / "out", *REQUESTED)


@pytest.fixture(scope="module")
def baked(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Result]:
    folder = tmp_path_factory.mktemp("baked") / "out"
    return run(checkpoint, folder, *REQUESTED, "--bake-preprocessing")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 3), np.uint8)
    PIL.Image.fromarray(noise).save(path)
    return path


def test_an_assumption_is_said_by_the_export_and_all_that_reads_its_artifact(
    unsaid: tuple[Artifact, Result], picture: Path
) -> None:
    artifact, result = unsaid
    assert SAID in result.stdout
    assert "set --resize or --crop, --interpolation, --mean, --std" in result.stdout
    assert artifact.manifest.preprocessing_source == "assumed"
    assert artifact.manifest.prepared == default_preprocessing(CONFIG)
    shown = CliRunner().invoke(export, ["inspect", str(artifact.directory), "--no-layers"])
    assert "pixels     assumed: resize 37, crop 32x32, bilinear, ImageNet's mean" in shown.stdout
    component = json.loads(sbom(artifact))["metadata"]["component"]
    facts = {each["name"]: each["value"] for each in component["properties"]}
    assert facts["resnext-toolkit:preprocessing_source"] == "assumed"
    answer = CliRunner().invoke(classify, [str(picture), "--artifact", str(artifact.directory)])
    assert f"warning: {SAID}" in answer.stderr


def test_an_assumption_is_said_of_weights_and_not_once_it_is_requested(
    checkpoint: Path, picture: Path
) -> None:
    command = [str(picture), "--weights", str(checkpoint), "--input-size", "32x32"]
    assert SAID in CliRunner().invoke(classify, command).stderr
    answer = CliRunner().invoke(classify, [*command, "--crop", "0.875"])
    assert "assumed:" not in answer.stderr
    assert answer.exit_code == 0


def test_every_accuracy_row_of_a_benchmark_says_what_is_assumed(
    unsaid: tuple[Artifact, Result],
    plain: tuple[Artifact, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm(monkeypatch)
    for label in range(10):
        folder = tmp_path / "pictures" / f"class{label}"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(label).integers(0, 256, (40, 40, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "0.png")
    for artifact, source in ((unsaid[0], "assumed"), (plain[0], "requested")):
        run = benchmark(
            artifact,
            duration=0.01,
            rounds=2,
            warmup=0,
            precision_target=None,
            accuracy=str(tmp_path / "pictures"),
        )
        (row,) = run.rows
        assert row.accuracy is not None
        assert row.accuracy.preprocessing_source == source
        assert (CODE in row.warnings) == (source == "assumed")
        assert ("of these weights is assumed" in run.table()) == (source == "assumed")


def test_a_part_that_is_requested_leaves_the_rest_assumed_and_said(
    checkpoint: Path, picture: Path, plain: tuple[Artifact, Result], tmp_path: Path
) -> None:
    (tmp_path / "part.json").write_text('{"mean": [0.5, 0.5, 0.5]}')
    part = ["--preprocessing", str(tmp_path / "part.json")]
    command = [str(picture), "--weights", str(checkpoint), "--input-size", "32x32"]
    for options, left in (
        (part, "--resize, --interpolation, --std not requested"),
        ([*part, "--crop", "0.9", "--std", "0.2,0.2,0.2"], "note: --interpolation not requested"),
        ([*REQUESTED, "--std", "0.2,0.2,0.2"], None),
    ):
        answer = CliRunner().invoke(classify, [*command, *options])
        assert answer.exit_code == 0, answer.output
        assert ("not requested" in answer.stderr) == (left is not None)
        assert (left or "") in answer.stderr
    artifact, _ = run(checkpoint, tmp_path / "out", *part)
    for folder, said in ((artifact.directory, True), (plain[0].directory, False)):
        shown = CliRunner().invoke(export, ["inspect", str(folder), "--no-layers"])
        assert ("note       resize, interpolation, std not requested" in shown.stdout) == said


def test_what_is_requested_is_recorded_and_loaded_again(
    checkpoint: Path, plain: tuple[Artifact, Result]
) -> None:
    artifact, result = plain
    assert "pixels    requested: resize 40, crop 32x32, bicubic, mean 0.4,0.5,0.6" in result.stdout
    manifest = artifact.manifest
    assert manifest.preprocessing_source == "requested"
    assert (manifest.prepared.resize, manifest.prepared.mean) == (40, (0.4, 0.5, 0.6))
    assert manifest.request is not None
    assert manifest.request["mean"] == [0.4, 0.5, 0.6]
    weights = recorded_weights(artifact)
    assert weights.preprocessing == manifest.prepared
    assert weights.preprocessing_source == "requested"
    assert load_weights(str(checkpoint), CONFIG).preprocessing != manifest.prepared


def test_an_artifact_with_requested_preprocessing_passes_parity_and_is_rebuilt_alike(
    plain: tuple[Artifact, Result], baked: tuple[Artifact, Result], tmp_path: Path
) -> None:
    for artifact, _ in (plain, baked):
        result = CliRunner().invoke(parity, ["--artifact", str(artifact.directory)])
        assert result.exit_code == 0, result.output
        again = rebuild(artifact.directory, tmp_path / artifact.manifest.file_sha256[:8])
        assert again.manifest.file_sha256 == artifact.manifest.file_sha256
        assert again.manifest.prepared == artifact.manifest.prepared


def test_what_is_made_from_such_an_artifact_keeps_it(
    plain: tuple[Artifact, Result], tmp_path: Path
) -> None:
    made = exported(plain[0], tmp_path / "half", precision="fp16")
    assert made.manifest.prepared == plain[0].manifest.prepared
    assert made.manifest.preprocessing_source == "requested"
    assert check(made).passed


@pytest.mark.exhaustive
def test_weights_that_were_loaded_with_a_request_are_rebuilt_with_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    options = PreprocessingOptions(std=(0.3, 0.3, 0.3))
    weights = load_weights(str(checkpoint), CONFIG, preprocessing=options)
    made = exported(weights, tmp_path / "one", model=None, input_size="32x32")
    again = rebuild(made.directory, tmp_path / "two")
    assert again.manifest.prepared.std == (0.3, 0.3, 0.3)
    assert again.manifest.file_sha256 == made.manifest.file_sha256


def test_a_checkpoint_that_moved_is_called_by_its_full_paths(
    plain: tuple[Artifact, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = plain[0]
    assert artifact.manifest.request is not None
    request = {**artifact.manifest.request, "weights": "mix.pth"}
    moved = relabeled(artifact, tmp_path / "moved", request=request)
    with pytest.raises(BadWeights, match=f"no weights file at {tmp_path / 'mix.pth'}") as caught:
        rebuild(moved.directory, tmp_path / "again")
    assert str(artifact.manifest.weights.source) in caught.value.message
    assert caught.value.hint.startswith("put the checkpoint back")


def wrong_mean(artifact: Artifact, folder: Path, *, in_file: bool) -> Artifact:
    """A copy that declares another mean: in its manifest, and in the file's own metadata, too."""
    preprocessing = artifact.manifest.prepared.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    changed = relabeled(artifact, folder, preprocessing=preprocessing)
    if not in_file:
        return changed
    proto = onnx.load(changed.path)
    for entry in proto.metadata_props:
        if entry.key.endswith("preprocessing"):
            entry.value = preprocessing.model_dump_json()
    data = proto.SerializeToString()
    changed.path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    facts = {"file_sha256": digest, "file_size_bytes": len(data)}
    manifest = changed.manifest.model_copy(update=facts)
    (folder / "manifest.json").write_text(manifest.to_json())
    return read_artifact(folder)


def test_a_wrong_mean_in_the_manifest_of_a_baked_file_is_caught(
    baked: tuple[Artifact, Result], plain: tuple[Artifact, Result], tmp_path: Path
) -> None:
    for artifact, _ in (baked, plain):
        edited = wrong_mean(artifact, tmp_path / artifact.manifest.file, in_file=False)
        with pytest.raises(BadArtifact, match="does not agree with the file on preprocessing"):
            check(edited)
        shutil.rmtree(edited.directory)
    # The file's metadata can be edited as well; what it computes cannot.
    outcome = check(wrong_mean(baked[0], tmp_path / "forged", in_file=True))
    assert not outcome.passed
    assert "normalizes pixels by other numbers than the manifest's" in "; ".join(outcome.failures)


def test_a_preprocessing_to_another_input_is_refused(plain: tuple[Artifact, Result]) -> None:
    manifest = plain[0].manifest
    for change in ({"crop": (16, 16)}, {"mean": (0.5,), "std": (0.5,), "color": "L"}):
        odd = manifest.prepared.model_copy(update=change)
        with pytest.raises(BadArtifact, match="a network that takes 3 x 32 x 32"):
            as_recorded(
                recorded_weights(plain[0]), manifest.model_copy(update={"preprocessing": odd})
            )


@pytest.mark.parametrize(
    ("command", "options", "code", "why"),
    [
        ("export", ("--mean", "123.675,116.28,103.53"), 2, "that is 0.485,0.456,0.406"),
        ("export", ("--mean", "0.5"), 2, "--mean has 1 values, and the network 3"),
        ("export", ("--mean", "a,b,c"), 2, "must be numbers separated by commas"),
        ("export", ("--resize", "40", "--crop", "0.9"), 2, "drop one"),
        ("export", ("--preprocessing", "none.json"), 4, "cannot read none.json"),
        ("classify", ("--std", "58,57,57"), 2, "that is 0.227451,0.223529,0.223529"),
        ("classify", ("--resize", "20"), 2, "--resize 20 is smaller than the network's input"),
        ("bench", ("--std", "0,1,1"), 2, "--std must be positive"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_line(
    checkpoint: Path, picture: Path, command: str, options: tuple[str, ...], code: int, why: str
) -> None:
    main, first = {
        "export": (export, ["--format", "onnx", "--output", str(picture.parent / "out")]),
        "classify": (classify, [str(picture)]),
        "bench": (bench, ["--backend", "torch"]),
    }[command]
    weights = ["--weights", str(checkpoint), "--input-size", "32x32"]
    result = CliRunner().invoke(main, [*first, *weights, *options])
    assert result.exit_code == code, result.output
    assert why in result.stderr


def test_options_for_pixels_are_refused_beside_an_artifact(
    plain: tuple[Artifact, Result], picture: Path, tmp_path: Path
) -> None:
    folder = str(plain[0].directory)
    for main, first in ((classify, [str(picture)]), (bench, ["--backend", "ort"])):
        result = CliRunner().invoke(main, [*first, "--artifact", folder, "--resize", "40"])
        assert result.exit_code == 2
        assert "an artifact has its own preprocessing; drop --" in result.stderr
    options = ["--onnx", folder, "--precision", "fp16", "--resize", "40"]
    result = CliRunner().invoke(
        export, ["--format", "onnx", *options, "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert "the ONNX artifact has its own resize" in result.stderr


def test_a_file_gives_what_no_option_does(checkpoint: Path, tmp_path: Path) -> None:
    config = {"input_size": [3, 48, 48], "crop_pct": 0.9, "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    arguments = ["--format", "onnx", "--weights", str(checkpoint), "--no-check"]
    options = ["--preprocessing", str(tmp_path / "config.json"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(export, [*arguments, *options, "--resize", "60"])
    assert result.exit_code == 0, result.output
    made = read_artifact(tmp_path / "out").manifest
    assert made.network.input_size == (48, 48)
    assert (made.prepared.resize, made.prepared.interpolation) == (60, "bicubic")
