"""The conformance kit beside an artifact, and what ``resnext-parity --pixels`` says of a port."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from click.testing import CliRunner, Result

from resnext.artifact.files import KIT_NAME, Artifact, read_artifact
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact
from resnext.network.config import ResNeXtConfig
from resnext.verify.check import recorded_weights
from resnext.verify.conformance import read_kit
from resnext.verify.reference import Reference
from resnext.weights.conditioned import seeded_state_dict
from resnext_export.cli.export import main as export
from resnext_export.pipeline import rebuild

CONFIG = ResNeXtConfig((1, 1), 4, 4, (32, 32), 3, 10, stem="imagenet", stem_channels=8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Result]:
    folder = tmp_path_factory.mktemp("kit")
    torch.save(dict(seeded_state_dict(CONFIG, 5)), folder / "tiny.pth")
    options = ["--format", "onnx", "--weights", str(folder / "tiny.pth"), "--input-size", "32x32"]
    result = CliRunner().invoke(
        export, [*options, "--resize", "40", "--conformance-kit", "--output", str(folder / "out")]
    )
    assert result.exit_code == 0, result.output
    return read_artifact(folder / "out"), result


@pytest.fixture
def folder(exported: tuple[Artifact, Result], tmp_path: Path) -> Path:
    """A copy of the artifact, which a test may change."""
    shutil.copytree(exported[0].directory, tmp_path / "out")
    return tmp_path / "out"


def compare(folder: Path, array: Any, *options: str) -> Result:
    file = folder.parent / "port.npy"
    np.save(file, array)
    return CliRunner().invoke(parity, ["--artifact", str(folder), "--pixels", str(file), *options])


def test_a_kit_holds_pictures_their_pixels_and_logits_and_how_to_use_them(
    exported: tuple[Artifact, Result], tmp_path: Path
) -> None:
    artifact, result = exported
    assert f"kit       {artifact.directory / KIT_NAME}" in result.stdout
    with zipfile.ZipFile(artifact.directory / KIT_NAME) as archive:
        archive.extractall(tmp_path)
    text = (tmp_path / "README.txt").read_text()
    assert "resize the shorter side to 40 and the longer to int(40 * longer / shorter)" in text
    record = json.loads((tmp_path / "kit.json").read_text())
    kit = read_kit(artifact)
    assert list(kit.names) == [each["name"] for each in record["pictures"]]
    modes = set()
    for row, name in enumerate(kit.names):
        path = tmp_path / "pictures" / name
        with PIL.Image.open(path) as image:
            modes.add(image.mode)
        assert np.array_equal(kit.pixels[row], kit.record.preprocessing.load(path)[0])
    assert modes == {"RGB", "L", "CMYK", "RGBA", "P"}
    reference = Reference(recorded_weights(artifact), kit.pixels)
    assert np.allclose(kit.logits, reference.logits(), rtol=1e-12)


def test_a_kit_is_the_same_bytes_again(exported: tuple[Artifact, Result], tmp_path: Path) -> None:
    again = rebuild(exported[0].directory, tmp_path / "again")
    assert (again.directory / KIT_NAME).read_bytes() == (
        exported[0].directory / KIT_NAME
    ).read_bytes()


def test_right_pixels_pass(folder: Path) -> None:
    artifact = read_artifact(folder)
    kit = read_kit(artifact)
    pixels = kit.pixels
    for array in (pixels, kit.record.preprocessing.normalize(pixels)):
        result = compare(folder, array)
        assert result.exit_code == 0, result.output
        assert "every pixel is the same" in result.stdout
    pixels = pixels.copy()
    pixels[0, :4] ^= 2  # the JPEG with EXIF
    result = compare(folder, pixels)
    assert result.exit_code == 0
    assert "within what JPEG decoders may differ" in result.stdout


def test_a_mistake_is_named_with_its_effect_on_the_answers(folder: Path) -> None:
    pixels = read_kit(read_artifact(folder)).pixels
    result = compare(folder, pixels[..., ::-1], "--json", str(folder.parent / "out.json"))
    assert result.exit_code == 1
    assert "the channels are BGR" in result.stdout
    assert "logits          top-1 changes on" in result.stdout
    assert "largest error" in result.stdout
    assert "error: the pixels in" in result.stderr
    stored = json.loads((folder.parent / "out.json").read_text())
    assert [each["code"] for each in stored["mistakes"]] == ["channels: bgr"]
    result = compare(folder, np.zeros_like(pixels))
    assert result.exit_code == 1
    assert "none of the known mistakes explains the difference" in result.stderr


def edit(folder: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    path = folder / KIT_NAME
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def set_record(name: str, value: object) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries["kit.json"] = json.dumps({**json.loads(entries["kit.json"]), name: value}).encode()

    return change


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def other_pixels(entries: dict[str, bytes]) -> None:
    pixels = np.load(io.BytesIO(entries["pixels.npy"]))
    pixels[6, 0, 0, 0] ^= 1
    entries["pixels.npy"] = npy(pixels)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda entries: entries.pop("kit.json"), "it has no kit.json"),
        (lambda entries: entries.pop("pictures/7-small.png"), "no pictures/7-small.png"),
        (lambda entries: entries.update({"kit.json": b"{"}), "is not a conformance kit"),
        (lambda entries: entries.update({"pixels.npy": b"x"}), "header is not NumPy's"),
        (
            lambda entries: entries.update({"pixels.npy": npy(np.zeros((8, 1)))}),
            "another shape of pixels",
        ),
        (
            lambda entries: entries.update({"logits.npy": npy(np.full((8, 10), np.nan))}),
            "another shape of logits",
        ),
        (set_record("weights_sha256", "0" * 64), "another weights than the artifact"),
        (set_record("format_version", 2), "is not a conformance kit"),
        (set_record("pictures", [{"name": "../x.png", "about": ""}]), "is not a conformance kit"),
        (other_pixels, "its pixels of 7-small.png differ by 1 gray levels"),
    ],
)
def test_a_damaged_kit_is_refused(
    folder: Path, change: Callable[[dict[str, bytes]], None], why: str
) -> None:
    pixels = read_kit(read_artifact(folder)).pixels
    edit(folder, change)
    result = compare(folder, pixels)
    assert result.exit_code == 4, result.output
    assert why in result.stderr


def test_an_artifact_without_a_kit_says_how_to_get_one(folder: Path) -> None:
    (folder / KIT_NAME).unlink()
    with pytest.raises(BadArtifact, match="conformance_kit"):
        read_kit(read_artifact(folder))
    assert "export the artifact again with --conformance-kit" in compare(folder, [1]).stderr


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "port.npy"),
        (b"not an array", "header is not NumPy's"),
        (npy(np.zeros((8, 32, 32, 3), np.uint8))[:-1], "it has 24575 bytes for 8 x 32 x 32 x 3"),
        (npy(np.zeros((8, 32, 32), np.uint8)), "it must be 8 x 32 x 32 x 3"),
        (npy(np.zeros((8, 32, 32, 3), np.int32)), "must be uint8 pixels, or floats"),
        (npy(np.array(["a"])), "not numbers"),
    ],
)
def test_a_file_that_is_no_array_of_pixels_is_refused(folder: Path, data: bytes, why: str) -> None:
    file = folder.parent / "port.npy"
    file.write_bytes(data)
    result = CliRunner().invoke(parity, ["--artifact", str(folder), "--pixels", str(file)])
    assert result.exit_code == 4, result.output
    assert why in result.stderr


def test_pixels_and_a_verdict_do_not_go_together(folder: Path) -> None:
    result = compare(folder, [1], "--verdict")
    assert result.exit_code == 2
    assert "drop --verdict and --batch-integrity" in result.stderr
