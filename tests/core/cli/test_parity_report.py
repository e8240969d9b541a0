"""What ``resnext-parity`` prints and writes: gate, limits, kinds of input, flips."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from exported import export_onnx
from resnext.artifact.files import Artifact, read_artifact
from resnext.cli.parity import main
from resnext.precision import PRESETS
from resnext.verify.parity import InputKind, Parity, compare
from resnext.weights.spec import load_weights

EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"
SEEDED = (InputKind(name="seeded", images=28, max_error=1, allowed=0.1, worst=0),)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("report") / "model"
    return export_onnx(load_weights("digits"), folder, check=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_the_report_has_gate_limits_inputs_and_flips(artifact: Artifact) -> None:
    result = CliRunner().invoke(main, ["--artifact", str(artifact.directory), "--gate", "loose"])
    assert result.exit_code == 0, result.output
    first, *lines = result.stdout.splitlines()
    assert first.startswith("PASS ")
    assert any(line.startswith("  gate        loose, fp32, which loses ") for line in lines)
    assert "  images      28 seeded, 10 adversarial" in lines
    row = next(line.split() for line in lines if "max error / what fp32 itself loses" in line)
    assert row[-4:-2] == ["most", "20.00"]
    assert row[-1] == "ok"
    for kind in ("seeded", "one hot pixel", "denormals", "huge values"):
        assert any(line.strip().startswith(kind) and " ok" in line for line in lines)
    assert any("flips beyond the noise" in line and "0 of 28" in line for line in lines)
    assert max(map(len, lines[3:])) <= 100


def test_the_json_has_the_same(artifact: Artifact) -> None:
    arguments = ["--artifact", str(artifact.directory), "--json", "-"]
    stored = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert stored["gate"] == "default"
    assert [limit["name"] for limit in stored["limits"]] == [
        "max_error",
        "error_ratio",
        "mean_ratio",
        "min_cosine",
        "top1",
    ]
    assert stored["inputs"][0]["name"] == "seeded"
    assert stored["flips"]["clear_flips"] == 0
    assert stored["error_ratio"] == stored["limits"][1]["actual"]


def test_help_lists_the_gates_and_an_unknown_one_is_refused(artifact: Artifact) -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).stdout.split())
    assert all(preset in text for preset in PRESETS)
    assert "default 5 times for fp32, 4 for others" in text
    result = CliRunner().invoke(main, ["--artifact", str(artifact.directory), "--gate", "lose"])
    assert result.exit_code == 2
    assert "did you mean 'loose'" in result.stderr
    result = CliRunner().invoke(main, ["--artifact", str(artifact.directory), "--gate", "foo"])
    assert "unknown gate 'foo'. Known: strict, default, loose" in result.stderr


def test_pictures_in_a_folder_are_compared_however_few(artifact: Artifact, pictures: Path) -> None:
    arguments = ["--artifact", str(artifact.directory), "--images-from", str(pictures)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    name = f"{pictures.name} calibration"
    assert f"  images      5 {name} (all that it has; 28 were requested), " in result.stdout
    warning = f"warning: {name} has 5 images, so that no more were compared; 28 were requested"
    assert warning in result.stderr.splitlines()
    result = CliRunner().invoke(main, [*arguments, "--images", "3"])
    assert f"  images      3 {name}, " in result.stdout
    assert "requested" not in result.output


def test_a_data_set_is_compared_on_its_test_images(artifact: Artifact) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    arguments = ["--artifact", str(artifact.directory), "--images-from", "digits"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "28 digits" in result.stdout


def test_a_missing_folder_is_refused_in_one_line(artifact: Artifact) -> None:
    arguments = ["--artifact", str(artifact.directory), "--images-from", "nowhere"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 4
    assert "no folder at nowhere; set --images-from to digits" in result.stderr


@pytest.mark.parametrize(
    ("source", "more", "hinted"),
    [
        ("digits calibration", [], True),
        ("digits calibration", ["--images-from", "digits"], False),
        ("random calibration", [], False),
    ],
)
def test_a_quantized_file_that_fails_on_seeded_images_names_its_calibration(
    source: str, more: list[str], hinted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = read_artifact(EARLIER / "onnx-int8")
    record = int8.manifest.quantization
    assert record is not None
    record = record.model_copy(update={"source": source})
    manifest = int8.manifest.model_copy(update={"quantization": record})
    logits = np.random.default_rng(0).standard_normal((28, 4))
    outcome = compare(logits, logits[:, ::-1].astype(np.float32))
    outcome = Parity(**{**dict(outcome), "artifact_sha256": manifest.file_sha256, "inputs": SEEDED})
    monkeypatch.setattr(
        "resnext.artifact.foreign.open_artifact",
        lambda *_, **__: dataclasses.replace(int8, manifest=manifest),
    )
    monkeypatch.setattr("resnext.verify.check.check", lambda *_, **__: outcome)
    done = CliRunner().invoke(main, ["--artifact", str(int8.directory), *more])
    assert done.exit_code == 1
    hint = f"set --images-from to images like those of the calibration ({source})"
    assert (hint in done.stderr) is hinted
