"""One state dict of several: chosen once, stored, and found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from resnext.cli.classify import main as classify
from resnext.errors import BadWeights
from resnext.network.config import ResNeXtConfig
from resnext.verify.check import recorded_weights
from resnext.weights.checkpoint import save_weights
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights, load_weights
from resnext_bench.cli.bench import main as bench
from resnext_export import export
from resnext_export.cli.export import main as export_command
from resnext_export.pipeline import rebuild

TINY = ResNeXtConfig((1, 1), 2, 4, (32, 32), 1, 5, stem="small", stem_channels=8)


@pytest.fixture(scope="module")
def networks() -> dict[str, Weights]:
    return {
        "state_dict": load_weights("seeded", TINY),
        "state_dict_ema": load_weights("seeded:1", TINY),
    }


@pytest.fixture
def path(tmp_path: Path, networks: dict[str, Weights]) -> Path:
    path = tmp_path / "last.pth.tar"
    states = {key: dict(weights.state_dict) for key, weights in networks.items()}
    torch.save({"epoch": 3, **states}, path)
    return path


@pytest.mark.exhaustive
def test_an_artifact_remembers_the_key(
    tmp_path: Path, path: Path, networks: dict[str, Weights]
) -> None:
    said: list[str] = []
    artifact = export(
        path, tmp_path / "a", weights_key="state_dict_ema", check=False, say=said.append
    )
    ema = networks["state_dict_ema"]
    assert artifact.manifest.weights.key == "state_dict_ema"
    assert artifact.manifest.weights.sha256 == ema.sha256
    assert any(line.startswith("the tensors are of a network of depths 1,1") for line in said)
    assert recorded_weights(artifact).sha256 == ema.sha256
    moved = path.rename(tmp_path / "moved.pth.tar")
    assert recorded_weights(artifact, str(moved)).sha256 == ema.sha256
    moved.rename(path)
    save_weights(ema, tmp_path / "alone.safetensors")
    assert recorded_weights(artifact, str(tmp_path / "alone.safetensors")).sha256 == ema.sha256
    loaded = export(load_weights(str(path), key="state_dict_ema"), tmp_path / "loaded", check=False)
    assert rebuild(loaded.directory, check=False).manifest.weights == artifact.manifest.weights


def test_a_key_that_is_lost_is_no_other_network(
    tmp_path: Path, path: Path, networks: dict[str, Weights]
) -> None:
    artifact = export(path, tmp_path / "a", weights_key="state_dict", check=False)
    states = list(networks.values())
    swapped = {"state_dict": states[1].state_dict, "state_dict_ema": states[0].state_dict}
    torch.save({key: dict(state) for key, state in swapped.items()}, path)
    with pytest.raises(BadWeights, match="are not those that"):
        recorded_weights(artifact)


def test_every_command_has_the_option_and_says_what_was_read(tmp_path: Path, path: Path) -> None:
    assert "--weights-key KEY" in CliRunner().invoke(bench, ["--help"]).output
    image = str(next(SHIPPED["digits"].images.glob("*.png")))
    for command, arguments in (
        (classify, [image]),
        (export_command, ["--format", "onnx", "--no-check", "--output", str(tmp_path / "out")]),
    ):
        run = CliRunner().invoke(command, [*arguments, "--weights", str(path)])
        assert run.exit_code == 4
        assert "--weights-key" in run.stderr
        run = CliRunner().invoke(
            command, [*arguments, "--weights", str(path), "--weights-key", "state_dict_ema"]
        )
        assert run.exit_code == 0, run.stderr
        assert "note: the tensors are of a network of depths 1,1" in run.stderr
        assert "--input-size" in run.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["weights"]["key"] == "state_dict_ema"
    run = CliRunner().invoke(
        classify, [image, "--artifact", str(tmp_path / "out"), "--weights-key", "x"]
    )
    assert run.exit_code == 2
    assert "--weights-key" in run.stderr
