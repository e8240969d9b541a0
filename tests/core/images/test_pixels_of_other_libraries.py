"""Pixels are those of torchvision's and timm's own transforms, bit for bit: networks were trained
with these.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from fakes.model_zoos import timm, torchvision
from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

#: Width and height: each parity, both orientations, tiny, thin, and the sizes of resize and crop.
SIZES = (
    (500, 375),
    (375, 500),
    (333, 500),
    (501, 333),
    (640, 427),
    (427, 641),
    (256, 256),
    (224, 224),
    (232, 301),
    (257, 255),
    (33, 50),
    (7, 5),
    (1, 1),
    (1, 9),
    (300, 13),
)
#: Resize, crop: of ImageNet's usual preprocessing, torchvision's second weights, timm's at 0.95 and
#: at test size.
LENGTHS = ((256, 224), (232, 224), (235, 224), (303, 288), (288, 288), (225, 224))


def picture(width: int, height: int) -> PIL.Image.Image:
    """Noise on a slope: each pixel counts, and so does each way to round."""
    y, x = np.mgrid[0:height, 0:width]
    slope = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1)
    noise = np.random.default_rng([width, height]).integers(-40, 41, (height, width, 3))
    return PIL.Image.fromarray(np.clip(slope + noise, 0, 255).astype(np.uint8))


def chosen(resize: int, crop: int, interpolation: str) -> Preprocessing:
    return Preprocessing.model_validate(
        {
            "resize": resize,
            "crop": (crop, crop),
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "interpolation": interpolation,
        }
    )


def network_input(preprocessing: Preprocessing, image: PIL.Image.Image) -> NDArray[np.float32]:
    images = preprocessing.normalize(preprocessing.to_pixels(image)[np.newaxis])
    return images.reshape(images.shape[1:])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), LENGTHS)
def test_the_input_is_that_of_torchvisions_weights(
    resize: int, crop: int, interpolation: str
) -> None:
    transforms = torchvision().transforms
    theirs = transforms._presets.ImageClassification(
        crop_size=crop,
        resize_size=resize,
        interpolation=transforms.InterpolationMode(interpolation),
    )
    ours = chosen(resize, crop, interpolation)
    for size in SIZES:
        image = picture(*size)
        assert np.array_equal(network_input(ours, image), theirs(image).numpy()), size


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("fraction", "crop", "resize"),
    [(0.875, 224, 256), (0.95, 224, 235), (0.95, 288, 303), (1.0, 288, 288), (0.965, 224, 232)],
)
def test_the_input_is_that_of_timms_evaluation(
    fraction: float, crop: int, resize: int, interpolation: str
) -> None:
    theirs = timm().data.create_transform(
        (3, crop, crop), crop_pct=fraction, crop_mode="center", interpolation=interpolation
    )
    ours = chosen(resize, crop, interpolation)
    for size in SIZES:
        image = picture(*size)
        assert np.array_equal(network_input(ours, image), theirs(image).numpy()), size


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_an_opaque_picture_of_any_mode_is_torchvisions_after_conversion_to_rgb(mode: str) -> None:
    transforms = torchvision().transforms
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    image = picture(333, 250).convert(mode)
    pixels = chosen(256, 224, "bilinear").to_pixels(image)
    assert np.array_equal(pixels, np.asarray(theirs(image.convert("RGB"))))


@pytest.mark.parametrize("crop", [(224, 240), (256, 224), (1, 256)])
def test_an_oblong_crop_inside_the_resized_picture_is_torchvisions(crop: tuple[int, int]) -> None:
    transforms = torchvision().transforms
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(crop)])
    ours = chosen(256, 224, "bilinear").model_copy(update={"crop": crop})
    image = picture(333, 250)
    assert np.array_equal(ours.to_pixels(image), np.asarray(theirs(image)))
