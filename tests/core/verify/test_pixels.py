"""A port's mistakes are named: each is made here in code that is not the product's."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from resnext.errors import BadInput
from resnext.images.odd_pictures import OddPicture, odd_pictures
from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnext.verify.conformance import pixels_of_files
from resnext.verify.pixel_readings import STEPS
from resnext.verify.pixels import PixelComparison, compare_pixels

BILINEAR = Preprocessing(resize=40, crop=(36, 36), mean=IMAGENET_MEAN, std=IMAGENET_STD)
BICUBIC = BILINEAR.model_copy(update={"interpolation": "bicubic"})
MEAN, STD = (np.array(each, np.float32) for each in (IMAGENET_MEAN, IMAGENET_STD))
CROP, SIDE = 36, 40

Pixels = NDArray[Any]


@cache
def pictures(preprocessing: Preprocessing) -> tuple[OddPicture, ...]:
    return odd_pictures(preprocessing)


@cache
def ours(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return pixels_of_files({p.name: p.data for p in pictures(preprocessing)}, preprocessing)


def compared(array: Pixels, preprocessing: Preprocessing) -> PixelComparison:
    kit = pictures(preprocessing)
    names, files = zip(*((each.name, each.data) for each in kit), strict=True)
    return compare_pixels(array, names, files, ours(preprocessing), preprocessing)


def codes(outcome: PixelComparison) -> list[str]:
    return [mistake.code for mistake in outcome.mistakes]


# A port, in the words of somebody who writes one.


def upright(image: Image) -> Image:
    return PIL.ImageOps.exif_transpose(image)


def shorter(image: Image, side: int = SIDE) -> tuple[int, int]:
    width, height = image.size
    longer = int(side * max(width, height) / min(width, height))
    return (side, longer) if width <= height else (longer, side)


def center(width: int, height: int) -> tuple[int, int]:
    return round((width - CROP) / 2), round((height - CROP) / 2)


def pillow(kernel: Resampling) -> Callable[[Image, tuple[int, int]], Pixels]:
    return lambda image, size: np.asarray(image.resize(size, kernel))


def interpolate(mode: str, **options: Any) -> Callable[[Image, tuple[int, int]], Pixels]:
    """PyTorch's own, without antialias."""

    def resize(image: Image, size: tuple[int, int]) -> Pixels:
        planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        interpolated = torch.nn.functional.interpolate(planes, size[::-1], mode=mode, **options)
        return interpolated[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()

    return resize


def port(
    preprocessing: Preprocessing,
    *,
    decode: Callable[[Image], Image] = upright,
    size: Callable[[Image], tuple[int, int]] = shorter,
    resize: Callable[[Image, tuple[int, int]], Pixels] | None = None,
    offset: Callable[[int, int], tuple[int, int]] = center,
) -> Pixels:
    usual = Resampling.BICUBIC if preprocessing.interpolation == "bicubic" else Resampling.BILINEAR
    resize = resize or pillow(usual)
    result = []
    for picture in pictures(preprocessing):
        image = decode(PIL.Image.open(io.BytesIO(picture.data))).convert("RGB")
        pixels = resize(image, size(image))
        left, top = offset(pixels.shape[1], pixels.shape[0])
        result.append(pixels[top : top + CROP, left : left + CROP])
    return np.stack(result)


def adobe_inverted(image: Image) -> Image:
    image = upright(image)
    return image.point(lambda level: 255 - level) if image.mode == "CMYK" else image


def letterbox(preprocessing: Preprocessing) -> Pixels:
    result = []
    for picture in pictures(preprocessing):
        image = upright(PIL.Image.open(io.BytesIO(picture.data))).convert("RGB")
        kept = PIL.ImageOps.contain(image, (CROP, CROP), Resampling.BILINEAR)
        whole = PIL.Image.new("RGB", (CROP, CROP))
        whole.paste(kept, (round((CROP - kept.width) / 2), round((CROP - kept.height) / 2)))
        result.append(np.asarray(whole))
    return np.stack(result)


def longer_side(to_whole: Callable[[float], float]) -> Callable[[Image], tuple[int, int]]:
    def size(image: Image) -> tuple[int, int]:
        width, height = image.size
        longer = int(to_whole(SIDE * max(width, height) / min(width, height)))
        return (SIDE, longer) if width <= height else (longer, SIDE)

    return size


def levels(array: Pixels) -> Pixels:
    return array.astype(np.float32)


def planes(array: Pixels) -> Pixels:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def normalized(array: Pixels) -> Pixels:
    return planes((levels(array) / 255 - MEAN) / STD)


def floor_offset(width: int, height: int) -> tuple[int, int]:
    return (width - CROP) // 2, (height - CROP) // 2


#: What a port gives, and what must be said of it.
MISTAKES: Mapping[str, tuple[Callable[[Preprocessing], Pixels], list[str]]] = {
    "BGR": (lambda p: ours(p)[..., ::-1], ["channels: bgr"]),
    "planes of uint8": (lambda p: planes(ours(p)), ["layout: NCHW"]),
    "reshaped, not transposed": (
        lambda p: ours(p).reshape(-1, 3, CROP, CROP),
        ["layout: NHWC-as-NCHW"],
    ),
    "columns before rows": (lambda p: ours(p).transpose(0, 2, 1, 3), ["layout: transposed"]),
    "no antialias, as PyTorch": (
        lambda p: port(p, resize=interpolate(p.interpolation, align_corners=False)),
        ["resampling: no-antialias"],
    ),
    "aligned corners": (
        lambda p: port(p, resize=interpolate(p.interpolation, align_corners=True)),
        ["resampling: corners"],
    ),
    "nearest": (lambda p: port(p, resize=pillow(Resampling.NEAREST)), ["resampling: nearest"]),
    "area": (lambda p: port(p, resize=pillow(Resampling.BOX)), ["resampling: area"]),
    "Lanczos": (lambda p: port(p, resize=pillow(Resampling.LANCZOS)), ["resampling: lanczos"]),
    "the other interpolation": (
        lambda p: port(
            p,
            resize=pillow(
                Resampling.BILINEAR if p.interpolation == "bicubic" else Resampling.BICUBIC
            ),
        ),
        ["resampling: other"],
    ),
    "the other, without antialias": (
        lambda p: port(
            p,
            resize=interpolate(
                "bilinear" if p.interpolation == "bicubic" else "bicubic", align_corners=False
            ),
        ),
        ["resampling: other-no-antialias"],
    ),
    "no margin": (lambda p: port(p, size=lambda i: shorter(i, CROP)), ["geometry: no-margin"]),
    "squeezed": (lambda p: port(p, size=lambda _: (CROP, CROP)), ["geometry: squeezed"]),
    "square": (lambda p: port(p, size=lambda _: (SIDE, SIDE)), ["geometry: square"]),
    "corner": (lambda p: port(p, offset=lambda *_: (0, 0)), ["geometry: corner"]),
    "offset down": (lambda p: port(p, offset=floor_offset), ["geometry: offset-down"]),
    "offset up": (
        lambda p: port(p, offset=lambda w, h: ((w - CROP + 1) // 2, (h - CROP + 1) // 2)),
        ["geometry: offset-up"],
    ),
    "longer side rounded": (
        lambda p: port(p, size=longer_side(round)),
        ["geometry: longer-rounded"],
    ),
    "as this toolkit once did": (
        lambda p: port(p, size=longer_side(round), offset=floor_offset),
        ["geometry: longer-rounded-offset-down"],
    ),
    "longer side up": (lambda p: port(p, size=longer_side(np.ceil)), ["geometry: longer-up"]),
    "EXIF": (lambda p: port(p, decode=lambda image: image), ["exif: ignored"]),
    "CMYK": (lambda p: port(p, decode=adobe_inverted), ["cmyk: inverted"]),
    "video's range": (
        lambda p: np.rint(16 + ours(p) * (219 / 255)).astype(np.uint8),
        ["range: limited"],
    ),
    "stretched range": (
        lambda p: np.clip(np.rint((ours(p) - 16.0) * (255 / 219)), 0, 255).astype(np.uint8),
        ["range: expanded"],
    ),
    "mirrored": (lambda p: ours(p)[:, :, ::-1], ["mirrored: sideways"]),
    "upside down": (lambda p: ours(p)[:, ::-1], ["mirrored: upside-down"]),
    "another order": (lambda p: ours(p)[[1, 0, 2, 3, 4, 5, 7, 6]], ["order"]),
    "0 to 1": (lambda p: planes(levels(ours(p)) / 255), ["scale: unit"]),
    "0 to 255": (lambda p: planes(levels(ours(p))), ["scale: full"]),
    "mean and std of 0 to 255": (
        lambda p: planes((levels(ours(p)) - MEAN) / STD),
        ["scale: full-normalized"],
    ),
    "normalized twice": (
        lambda p: planes(((levels(ours(p)) / 255 - MEAN) / STD - MEAN) / STD),
        ["scale: twice"],
    ),
    "without std": (lambda p: planes(levels(ours(p)) / 255 - MEAN), ["scale: no-std"]),
    "without mean": (lambda p: planes(levels(ours(p)) / 255 / STD), ["scale: no-mean"]),
    "-1 to 1": (lambda p: planes(levels(ours(p)) / 127.5 - 1), ["scale: signed"]),
    "mean and std of B, G, R": (
        lambda p: planes((levels(ours(p)) / 255 - MEAN[::-1]) / STD[::-1]),
        ["scale: reversed"],
    ),
    "floats with channels last": (
        lambda p: (levels(ours(p)) / 255 - MEAN) / STD,
        ["layout: NHWC"],
    ),
    "floats reshaped": (
        lambda p: ((levels(ours(p)) / 255 - MEAN) / STD).reshape(-1, 3, CROP, CROP),
        ["layout: NHWC-as-NCHW"],
    ),
    # Mistakes come together.
    "OpenCV's defaults": (
        lambda p: normalized(
            port(
                p,
                decode=lambda image: image,
                resize=interpolate(p.interpolation, align_corners=False),
            )[..., ::-1]
        ),
        ["channels: bgr", "resampling: no-antialias", "exif: ignored"],
    ),
    "a canvas in JavaScript": (
        lambda p: planes(
            levels(
                port(
                    p,
                    size=lambda _: (CROP, CROP),
                    resize=interpolate("bilinear", align_corners=False),
                )
            )
            / 255
        ),
        ["scale: unit", "geometry: squeezed", "resampling: no-antialias"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_mistake_is_named(mistake: str) -> None:
    make, expected = MISTAKES[mistake]
    outcome = compared(make(BILINEAR), BILINEAR)
    assert not outcome.same
    assert codes(outcome) == expected
    assert all(each.message and "\n" not in each.message for each in outcome.mistakes)


@pytest.mark.parametrize(
    "mistake",
    [
        "no antialias, as PyTorch",
        "aligned corners",
        "nearest",
        "area",
        "Lanczos",
        "OpenCV's defaults",
    ]
    + [name for name in MISTAKES if "other" in name or "offset" in name],
)
def test_it_is_named_of_a_bicubic_resize_as_well(mistake: str) -> None:
    make, expected = MISTAKES[mistake]
    assert codes(compared(make(BICUBIC), BICUBIC)) == expected


def test_a_letterbox_is_named() -> None:
    assert codes(compared(letterbox(BILINEAR), BILINEAR)) == ["geometry: letterbox"]


def test_every_mistake_of_every_step_has_its_planted_port() -> None:
    named = {code for _, expected in MISTAKES.values() for code in expected}
    known = {f"{step}: {value}" for step, values in STEPS.items() for value in [*values][1:]}
    assert known - named == {"geometry: letterbox", "resampling: left"}


@pytest.mark.parametrize("preprocessing", [BILINEAR, BICUBIC])
def test_right_pixels_are_the_same_whichever_way_they_are_stored(
    preprocessing: Preprocessing,
) -> None:
    for array in (
        ours(preprocessing),
        port(preprocessing),
        preprocessing.normalize(ours(preprocessing)),
        normalized(port(preprocessing)),
    ):
        outcome = compared(array, preprocessing)
        assert (outcome.same, outcome.exact, codes(outcome)) == (True, True, [])


def test_another_jpeg_decoder_is_no_mistake_and_the_same_error_elsewhere_is() -> None:
    noise = np.random.default_rng(0).integers(-2, 3, ours(BILINEAR).shape)
    kit = pictures(BILINEAR)
    for index, picture in enumerate(kit):
        array = ours(BILINEAR).astype(int)
        array[index] = np.clip(array[index] + noise[index], 0, 255)
        outcome = compared(array.astype(np.uint8), BILINEAR)
        assert outcome.same == picture.name.endswith(".jpg")
        assert not outcome.exact


def test_what_no_known_mistake_explains_is_not_explained() -> None:
    random = np.random.default_rng(1)
    smeared = (ours(BILINEAR).astype(int) + np.roll(ours(BILINEAR), 9, axis=2)) // 2
    for array in (
        random.integers(0, 256, ours(BILINEAR).shape, np.uint8),
        smeared.astype(np.uint8),
        np.zeros_like(ours(BILINEAR)),
        255 - ours(BILINEAR),
    ):
        outcome = compared(array, BILINEAR)
        assert not outcome.same
        assert codes(outcome) == []


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((8, 36, 36), np.uint8), "8 x 36 x 36; it must be 8 x 36 x 36 x 3"),
        (np.zeros((7, 36, 36, 3), np.uint8), "7 x 36 x 36 x 3; it must be"),
        (np.zeros((8, 36, 36, 4), np.uint8), "8 x 36 x 36 x 4; it must be"),
        (np.float32(1), "one number"),
        (np.zeros((8, 36, 36, 3), np.int64), "int64; it must be uint8 pixels, or floats"),
        (np.full((8, 3, 36, 36), np.nan, np.float32), "NaN or infinite"),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(array: Any, why: str) -> None:
    with pytest.raises(BadInput) as caught:
        compared(np.asarray(array), BILINEAR)
    assert why in str(caught.value)


def test_gray_networks_have_their_mistakes_named() -> None:
    gray = Preprocessing(resize=16, crop=(12, 12), mean=(0.5,), std=(0.25,), color="L")
    assert compared(ours(gray), gray).exact
    assert codes(compared(ours(gray)[:, :, ::-1], gray)) == ["mirrored: sideways"]
    assert codes(compared(gray.normalize(ours(gray)) * np.float32(0.25), gray)) == ["scale: no-std"]
