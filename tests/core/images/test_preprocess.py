from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from resnext.errors import BadInput
from resnext.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    default_preprocessing,
)
from resnext.network.config import ResNeXtConfig, variant

IMAGENET = Preprocessing(resize=256, crop=(224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD)
GRAY = Preprocessing(resize=8, crop=(8, 8), mean=(0.5,), std=(0.25,), color="L")


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth color image: its resized version can be computed from the formula."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = (x + 0.5) / width, (y + 0.5) / height
    channels = [0.5 + 0.4 * np.sin(3 * x + 2 * y), 0.2 + 0.6 * x * y, 0.9 - 0.7 * y]
    pixels: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1) * 255).astype(np.uint8)
    return pixels


def bilinear(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """A resize written from its definition: a triangle filter, widened if the image shrinks."""

    def weights(have: int, want: int) -> NDArray[np.float64]:
        scale = have / want
        reach = max(scale, 1.0)
        center = (np.arange(want) + 0.5) * scale
        distance = np.abs(np.arange(have)[np.newaxis] + 0.5 - center[:, np.newaxis]) / reach
        triangle = np.maximum(1 - distance, 0)
        normed: NDArray[np.float64] = triangle / triangle.sum(axis=1, keepdims=True)
        return normed

    rows = np.einsum("yh,hwc->ywc", weights(image.shape[0], height), image.astype(np.float64))
    result: NDArray[np.float64] = np.einsum("xw,ywc->yxc", weights(image.shape[1], width), rows)
    return result


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((640, 480), (341, 256)),
        ((480, 640), (256, 341)),
        ((300, 300), (256, 256)),
        ((100, 150), (256, 384)),
    ],
    ids=["landscape", "portrait", "square", "enlarged"],
)
def test_pixels_are_the_center_of_the_image_resized_by_its_shorter_side(
    size: tuple[int, int], resized: tuple[int, int]
) -> None:
    source = smooth(*size)
    width, height = resized
    left, top = (width - 224) // 2, (height - 224) // 2
    want = bilinear(source, width, height)[top : top + 224, left : left + 224]
    got = IMAGENET.to_pixels(Image.fromarray(source))
    assert got.dtype == np.uint8
    assert got.shape == (224, 224, 3)
    assert np.abs(got - want).max() <= 1.5  # PIL rounds to whole gray levels after each direction


def test_bicubic_is_not_bilinear() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    cubic = IMAGENET.model_copy(update={"interpolation": "bicubic"})
    want = np.asarray(noise.resize((256, 256), Image.Resampling.BICUBIC))[16:240, 16:240]
    assert np.array_equal(cubic.to_pixels(noise), want)
    assert not np.array_equal(IMAGENET.to_pixels(noise), want)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    assert np.array_equal(GRAY.to_pixels(Image.fromarray(pixels))[:, :, 0], pixels)


@pytest.mark.parametrize("crop", [(64, 128), (128, 64)])
@pytest.mark.parametrize("size", [(200, 200), (400, 200), (200, 400)])
def test_an_oblong_crop_never_stretches_the_image(
    crop: tuple[int, int], size: tuple[int, int]
) -> None:
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    disc = ((x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < 60**2).astype(np.uint8) * 255
    config = ResNeXtConfig(input_size=crop, in_channels=1)
    pixels = default_preprocessing(config).to_pixels(Image.fromarray(disc))[:, :, 0] > 127
    assert pixels.shape == crop
    across = int(pixels[crop[0] // 2].sum())
    down = int(pixels[:, crop[1] // 2].sum())
    if across < crop[1] and down < crop[0]:  # the whole disc is in view
        assert across == pytest.approx(down, abs=3)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 33, 80])
@pytest.mark.parametrize("height", [1, 3, 16, 47, 80])
@pytest.mark.parametrize("crop", [(1, 1), (16, 16), (7, 12), (16, 1)])
def test_an_image_of_any_size_gives_the_declared_shape(
    width: int, height: int, crop: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(resize=16, crop=crop, mean=(0.5,), std=(0.5,), color="L")
    assert preprocessing.to_pixels(Image.new("L", (width, height))).shape == (*crop, 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
def test_every_color_mode_is_converted(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(smooth(40, 30))
    source = Image.new(mode, (40, 30)) if mode == "I;16" else source.convert(mode)
    path = tmp_path / ("image.tiff" if mode in ("CMYK", "I;16") else "image.png")
    source.save(path)
    assert IMAGENET.load(path).shape == (1, 224, 224, 3)
    assert GRAY.load(path).shape == (1, 8, 8, 1)


def test_a_gray_image_gives_three_equal_channels() -> None:
    pixels = IMAGENET.to_pixels(Image.fromarray(smooth(256, 256)[:, :, 0]))
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 1])
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def test_a_palette_image_gives_its_colors_and_not_its_indices() -> None:
    image = Image.new("P", (256, 256), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert IMAGENET.to_pixels(image)[5, 5].tolist() == [200, 100, 50]


def test_an_opaque_rgba_image_is_the_rgb_image() -> None:
    image = Image.fromarray(smooth(300, 300))
    assert np.array_equal(IMAGENET.to_pixels(image.convert("RGBA")), IMAGENET.to_pixels(image))


def test_normalize_is_the_declared_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    got = IMAGENET.normalize(pixels)
    assert got.dtype == np.float32
    assert got.shape == (2, 3, 4, 5)
    assert got.flags.c_contiguous
    for channel in range(3):
        for row, column in ((0, 0), (3, 4), (1, 2)):
            want = (
                int(pixels[1, row, column, channel]) / 255 - IMAGENET_MEAN[channel]
            ) / IMAGENET_STD[channel]
            assert got[1, channel, row, column] == pytest.approx(want, rel=1e-5, abs=1e-6)


def test_a_file_is_loaded_as_a_batch_of_one(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    assert np.array_equal(GRAY.load(tmp_path / "digit.png"), pixels[np.newaxis, :, :, np.newaxis])


def test_a_missing_image_is_a_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no image at"):
        GRAY.load(tmp_path / "none.png")


@pytest.mark.parametrize("raw", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_a_file_that_is_no_image_is_a_bad_input(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=r"image\.png"):
        GRAY.load(path)


def test_a_folder_is_a_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        GRAY.load(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_image_is_a_bad_input_or_read_but_never_a_foreign_error(
    tmp_path: Path, suffix: str, part: float
) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(smooth(120, 90)).save(whole)
    raw = whole.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    if suffix in ("png", "jpg", "bmp"):
        with pytest.raises(BadInput, match="cut"):
            GRAY.load(path)
    else:
        with contextlib.suppress(BadInput):
            GRAY.load(path)


def test_damage_in_a_png_is_a_bad_input_or_read_but_never_a_foreign_error(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.png", tmp_path / "damaged.png"
    Image.fromarray(smooth(12, 9)).save(whole)
    raw = whole.read_bytes()
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 0x55
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(BadInput):
            GRAY.load(path)


def test_an_image_of_absurd_size_is_a_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadInput, match="bomb"):
        GRAY.load(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "preprocessing", [IMAGENET, GRAY, IMAGENET.model_copy(update={"interpolation": "bicubic"})]
)
def test_json_gives_the_same_preprocessing_back(preprocessing: Preprocessing) -> None:
    assert Preprocessing.model_validate_json(preprocessing.model_dump_json()) == preprocessing


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"resize": 0}, "resize"),
        ({"crop": (224,)}, "crop"),
        ({"crop": (0, 224)}, "crop"),
        ({"crop": (-1, 224)}, "crop"),
        ({"crop": (257, 257)}, "crop must not be larger than resize"),
        ({"mean": (0.5,)}, "need 3 values for color RGB"),
        ({"std": (0.2, 0.2)}, "need 3 values for color RGB"),
        ({"color": "L"}, "need 1 values for color L"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be positive"),
        ({"std": (0.2, -1.0, 0.2)}, "std must be positive"),
        ({"std": (0.2, float("nan"), 0.2)}, "std"),
        ({"mean": (0.2, float("nan"), 0.2)}, "mean"),
        ({"mean": (0.2, float("inf"), 0.2)}, "mean"),
        ({"color": "BGR"}, "color"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"layout": "NHWC"}, "layout"),
        ({"gamma": 2.2}, "gamma"),
    ],
)
def test_values_that_make_no_sense_are_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Preprocessing.model_validate({**IMAGENET.model_dump(), **change})


def test_a_preprocessing_never_changes() -> None:
    with pytest.raises(ValidationError):
        IMAGENET.resize = 1  # type: ignore[misc]  # that it cannot is the point


@pytest.mark.parametrize(
    ("name", "resize", "color"), [("resnext50_32x4d", 256, "RGB"), ("resnext29_8x64d", 32, "RGB")]
)
def test_the_default_is_imagenets_for_three_channels(name: str, resize: int, color: str) -> None:
    chosen = default_preprocessing(variant(name))
    assert (chosen.resize, chosen.color, chosen.crop) == (resize, color, variant(name).input_size)
    assert (chosen.mean, chosen.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_default_for_one_channel_maps_to_minus_one_to_one() -> None:
    chosen = default_preprocessing(variant("resnext11_8x4d_digits"))
    ends = chosen.normalize(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    assert ends.ravel().tolist() == [-1.0, 1.0]


def test_a_network_of_two_channels_has_no_default() -> None:
    with pytest.raises(BadInput, match="2 input channels"):
        default_preprocessing(ResNeXtConfig(in_channels=2))
