"""Preprocessing, declared once and used by classification, export and benchmark alike.

An image is converted to the declared color mode, its shorter side resized and its center cropped,
which gives uint8 pixels; these become float32, divided by 255 and normalized by channel. PIL does
the first half (`to_pixels`); the second (`normalize`) is plain arithmetic that an exported graph
can carry itself ("baked").
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from resnext.errors import BadInput
from resnext.network.config import ResNeXtConfig

from .pictures import opened

#: Mean and standard deviation of ImageNet's training images, channels R, G, B, in units of full
#: scale.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


#: Who says how an image becomes the input: the checkpoint itself, the table of published weights,
#: the user, or nobody.
PreprocessingSource: TypeAlias = Literal["declared", "published", "requested", "assumed"]
#: How pictures become pixels, by number: part of the key of everything stored that depends on it.
#: 2 rounds sizes and offsets as torchvision does.
PIXELS_VERSION = 2
#: Largest image that a resize may produce, pixels; more means absurd proportions.
_MOST_PIXELS = 50_000_000
_Size = Annotated[int, Field(ge=1)]


class Preprocessing(BaseModel):
    """How an image file becomes the network's input.

    Attributes:
        resize: length of the shorter side after resizing, pixels.
        crop: (height, width) of the center crop, pixels: the network's input size.
        mean: subtracted from each channel, in units of full scale (0 to 1).
        std: divides each channel, in units of full scale.
        color: PIL mode that the image is converted to; ``RGB`` has three channels, ``L`` one.
        interpolation: interpolation of the resize.
        layout: axes of the network's input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: int = Field(ge=1)
    crop: tuple[_Size, _Size]
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    color: Literal["RGB", "L"] = "RGB"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    layout: Literal["NCHW"] = "NCHW"

    @model_validator(mode="after")
    def _consistent(self) -> Preprocessing:
        channels = 3 if self.color == "RGB" else 1
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} values for color {self.color}")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if min(self.crop) > self.resize:
            raise ValueError("crop must not be larger than resize")
        return self

    def summary(self) -> str:
        """Human-readable values, without color and layout."""
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            scale = "ImageNet's mean and std"
        else:
            mean, std = (",".join(f"{value:g}" for value in each) for each in (self.mean, self.std))
            scale = f"mean {mean}, std {std}"
        return (
            f"resize {self.resize}, crop {self.crop[0]}x{self.crop[1]}, {self.interpolation},"
            f" {scale}"
        )

    def to_pixels(self, image: Image) -> NDArray[np.uint8]:
        """Resize and crop ``image``; returns uint8 pixels, H x W x C.

        The image is rotated upright (EXIF orientation); 16-bit gray is scaled to 8 bits.

        Raises:
            BadInput: the image has transparent or floating-point pixels, which are ambiguous, or is
                far too oblong.
        """
        image = eight_bits(image)
        if image.mode != self.color:  # Pillow would copy it
            image = image.convert(self.color)
        crop_h, crop_w = self.crop
        width, height = self.resized(*image.size)
        if width * height > _MOST_PIXELS:
            raise BadInput(
                f"an image of {image.width}x{image.height} is too oblong to be resized for"
                " this network"
            )
        if (width, height) != image.size:
            filters = {
                "bilinear": PIL.Image.Resampling.BILINEAR,
                "bicubic": PIL.Image.Resampling.BICUBIC,
            }
            image = image.resize((width, height), filters[self.interpolation])
        # torchvision's rounding: a half goes to the even number.
        left, top = round((width - crop_w) / 2), round((height - crop_h) / 2)
        pixels = np.asarray(image.crop((left, top, left + crop_w, top + crop_h)), dtype=np.uint8)
        return pixels.reshape(crop_h, crop_w, len(self.mean))

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an upright image after the resize, pixels, as torchvision computes
        them.

        An oblong crop that would not fit is covered by a larger scale; torchvision pads it.
        """
        crop_h, crop_w = self.crop
        longer = int(self.resize * max(width, height) / min(width, height))
        resized = (self.resize, longer) if width <= height else (longer, self.resize)
        if resized[0] >= crop_w and resized[1] >= crop_h:
            return resized
        scale = max(crop_w / width, crop_h / height)
        return max(round(width * scale), crop_w), max(round(height * scale), crop_h)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 pixels (N x H x W x C) to contiguous float32 input (N x C x H x W)."""
        scaled = pixels.astype(np.float32) / np.float32(255)
        mean: NDArray[np.float32] = np.asarray(self.mean, np.float32)
        std: NDArray[np.float32] = np.asarray(self.std, np.float32)
        return np.ascontiguousarray(((scaled - mean) / std).transpose(0, 3, 1, 2), np.float32)

    def load(self, path: Path) -> NDArray[np.uint8]:
        """Read an image file; returns uint8 pixels, 1 x H x W x C.

        Raises:
            BadInput: the file is missing, or is not a picture that can be read (`pictures.opened`).
        """
        with opened(path) as image:
            return self.to_pixels(image)[np.newaxis]


def eight_bits(image: Image) -> Image:
    """``image`` upright, opaque and with 8 bits per channel; ambiguous pixels are an error."""
    if image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1:  # Pillow would copy it
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadInput("its integer pixels are not 16-bit; save it with 8 or 16 bits a channel")
        scaled = values.astype(np.uint32)
        scaled *= 255
        scaled += 32767
        scaled //= 65535
        return PIL.Image.fromarray(scaled.astype(np.uint8))
    if image.mode == "F":
        raise BadInput(
            "its pixels are floating-point, of unknown range; save it with 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if isinstance(lowest, tuple) or lowest < 255:
            raise BadInput("it is partly see-through; flatten it onto a background first")
    return image


def default_preprocessing(config: ResNeXtConfig) -> Preprocessing:
    """ImageNet's usual preprocessing (resize 256/224 of the crop) for RGB, half-range for gray.

    Raises:
        BadInput: ``config`` has neither one nor three input channels, so no picture format fits.
    """
    if config.in_channels not in (1, 3):
        raise BadInput(
            f"a network of {config.in_channels} input channels has no default preprocessing; "
            "pictures have 1 (L) or 3 (RGB)"
        )
    if config.in_channels == 1:
        mean, std = (0.5,), (0.5,)
        return Preprocessing(
            resize=min(config.input_size), crop=config.input_size, mean=mean, std=std, color="L"
        )
    shorter = min(config.input_size)
    resize = round(shorter * 256 / 224) if config.stem == "imagenet" else shorter
    return Preprocessing(
        resize=resize, crop=config.input_size, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
