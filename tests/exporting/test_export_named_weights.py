"""Artifacts of published weights: what the manifest says, and loading them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.hub_server import HubServer, serving
from resnext.errors import BadWeights
from resnext.verify.check import check, recorded_weights
from resnext.weights.checkpoint import Weights, save_weights
from resnext.weights.spec import load_weights
from resnext_export import ExportRequest, export
from resnext_export.pipeline import rebuild


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving() as server:
        server.connect(tmp_path, monkeypatch)
        yield server


def add(hub: HubServer, folder: Path, spec: str) -> str:
    """Serve weights of the digits network as the newest commit; returns it."""
    weights = load_weights(spec, "resnext11_8x4d_digits")
    save_weights(weights, folder / "model.safetensors")
    return hub.add("me/digits", {"model.safetensors": (folder / "model.safetensors").read_bytes()})


@pytest.mark.exhaustive
def test_an_artifact_knows_the_commit_of_its_weights_and_is_checked_and_rebuilt_with_it(
    hub: HubServer, tmp_path: Path
) -> None:
    commit = add(hub, tmp_path, "digits")
    artifact = export("hf:me/digits", output=tmp_path / "model")
    record = artifact.manifest.weights
    assert (record.source, record.revision) == ("hf:me/digits", commit)
    assert record.file_sha256 == load_weights("hf:me/digits").file_sha256
    assert artifact.manifest.preprocessing_source == "declared"

    newer = add(hub, tmp_path, "seeded")
    assert load_weights("hf:me/digits").revision == newer
    assert recorded_weights(artifact).revision == commit
    with pytest.raises(BadWeights, match="are not those that"):
        recorded_weights(artifact, "hf:me/digits")
    assert check(artifact, images=7).passed
    again = rebuild(tmp_path / "model", tmp_path / "again")
    assert again.manifest.file_sha256 == artifact.manifest.file_sha256
    assert again.manifest.weights == record


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torchvision:resnext50_32x4d/IMAGENET1K_V2", "torchvision-resnext50_32x4d-IMAGENET1K_V2"),
        ("timm:resnext50_32x4d.a1h_in1k", "timm-resnext50_32x4d.a1h_in1k"),
        ("hf:me/net", "hf-me-net"),
    ],
)
def test_a_folder_is_named_after_the_weights(source: str, name: str) -> None:
    digits = load_weights("digits")
    weights = Weights(digits.config, digits.state_dict, source, digits.preprocessing)
    assert ExportRequest().folder(weights, "fp32", "onnx") == Path(f"{name}-fp32-onnx")
