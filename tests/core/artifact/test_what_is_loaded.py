"""What was checked is what is loaded: a file that is swapped in between is refused, or not seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from exported import export_onnx, export_openvino
from fakes.package import FakeLoader, fake_package
from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadArtifact
from resnext.images.synthetic import seeded_pixels
from resnext.runtimes.registry import open_session
from resnext.verify.check import check
from resnext.weights.spec import Weights, load_weights
from resnext_export import export


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifacts(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("loaded")
    onnx = export_onnx(weights, folder / "onnx")
    return {
        "onnx": onnx,
        "openvino": export_openvino(onnx, weights, folder / "openvino"),
        "pt2": fake_package(folder / "pt2", weights),
    }


def replaced(path: Path) -> None:
    """Another file under the same name, as `mv` leaves it."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-8] + bytes(8))


def altered(path: Path) -> None:
    """The same file with another byte in its middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


RUNTIMES = {
    "ort-cpu": "onnx",
    "onnx-reference": "onnx",
    "openvino": "onnx",
    "openvino-ir": "openvino",
    "pt2": "pt2",
}


@pytest.mark.parametrize("swap", [replaced, altered, truncated, grown])
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_file_that_is_swapped_after_it_was_read_is_not_loaded(
    name: str, swap: Callable[[Path], None], artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    shutil.copytree(artifacts[RUNTIMES[name]].directory, tmp_path / "a")
    artifact = read_artifact(tmp_path / "a")
    swap(artifact.path)
    with pytest.raises(BadArtifact, match=r"altered"):
        open_session(artifact, name.removesuffix("-ir"))


@pytest.mark.parametrize("name", ["ort-cpu", "onnx-reference", "openvino", "openvino-ir"])
def test_a_session_is_not_touched_by_what_happens_to_its_file(
    name: str, artifacts: dict[str, Artifact], weights: Weights, tmp_path: Path
) -> None:
    shutil.copytree(artifacts[RUNTIMES[name]].directory, tmp_path / "a")
    artifact = read_artifact(tmp_path / "a")
    images = {"input": weights.preprocessing.normalize(seeded_pixels(weights.config, 3))}
    with open_session(artifact, name.removesuffix("-ir")) as session:
        before = session.run(images)["logits"].copy()
        truncated(artifact.path)  # a mapped file would end the process with a signal
        np.testing.assert_array_equal(session.run(images)["logits"], before)
        np.testing.assert_array_equal(session.bind(images).fetch()["logits"], before)


def test_a_package_is_loaded_from_a_private_copy_that_is_removed(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bytes, int]] = []

    def make(path: str, *_: object) -> FakeLoader:
        mode = Path(path).parent.stat().st_mode & 0o777
        seen.append((path, Path(path).read_bytes(), mode))
        return FakeLoader(lambda images: images)

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", make)
    artifact = artifacts["pt2"]
    open_session(artifact, "pt2").close()
    ((path, data, mode),) = seen
    assert data == artifact.path.read_bytes()
    assert Path(path) != artifact.path
    assert mode == 0o700
    assert not Path(path).exists()


def test_other_steps_refuse_a_swapped_file_too(
    artifacts: dict[str, Artifact], weights: Weights, tmp_path: Path
) -> None:
    shutil.copytree(artifacts["onnx"].directory, tmp_path / "a")
    artifact = read_artifact(tmp_path / "a")
    altered(artifact.path)
    with pytest.raises(BadArtifact, match="altered"):
        check(artifact, weights=weights)
    for changes in ({"format": "openvino"}, {"precision": "fp16"}, {"merge_groups": 8}):
        with pytest.raises(BadArtifact, match="altered"):
            export(artifact, tmp_path / "out", **changes)


def test_a_copy_has_the_bytes_of_the_manifest(
    artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    artifact = artifacts["onnx"]
    assert artifact.copy_to(tmp_path).read_bytes() == artifact.read()
    assert bytes(artifact.read_writable()) == artifact.read()
