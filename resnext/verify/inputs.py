"""Test inputs for any artifact, also for one whose preprocessing is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.foreign import Layout, layout_of
from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadInput
from resnext.images.adversarial import Adversarial, adversarial_inputs
from resnext.images.preprocessing import Preprocessing
from resnext.images.synthetic import Frame, seeded_pixels

#: Ranges of floating-point inputs, by name: what is subtracted from a share of full scale (0 to 1),
#: and what divides it. Most networks take the first; some normalize pixels themselves.
SCALES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"-2 to 2": (0.5, 0.25), "0 to 255": (0.0, 1 / 255)}
)
_CENTERED = next(iter(SCALES))


@dataclass(frozen=True)
class Feed:
    """How an ONNX file from elsewhere takes images; nobody said, so only shape and type are known.

    Attributes:
        layout: order of the axes.
        in_channels: number of channels; 1 for rows of numbers.
        input_size: (height, width); a row of numbers has height 1.
        pixels: it takes uint8 pixels.
        scale: range of floating-point inputs, a name in `SCALES`.
    """

    layout: Layout
    in_channels: int
    input_size: tuple[int, int]
    pixels: bool
    scale: str = _CENTERED

    @classmethod
    def of(cls, spec: TensorSpec, scale: str = _CENTERED) -> Feed:
        """The feed of an input that `resnext.artifact.foreign.adopt` accepts."""
        layout = layout_of(spec.shape)
        sizes = [size for size in spec.shape[1:] if size is not None]
        if layout is None or len(sizes) != len(spec.shape) - 1:
            raise ValueError(f"{spec.shape} is no shape of images")
        if layout == "features":
            channels, height, width = 1, 1, sizes[0]
        elif layout == "nchw":
            channels, height, width = sizes
        else:
            height, width, channels = sizes
        return cls(layout, channels, (height, width), spec.dtype == "uint8", scale)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 pixels (N x H x W x C) to float32 (N x C x H x W) in the range."""
        mean, std = map(np.float32, SCALES[self.scale])
        scaled = pixels.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(((scaled - mean) / std).transpose(0, 3, 1, 2), np.float32)

    def assumed(self) -> Preprocessing:
        """What pictures go through to be compared: nobody knows what the network wants.

        Raises:
            BadInput: no picture has as many channels.
        """
        if self.layout == "features" or self.in_channels not in (1, 3):
            raise BadInput(
                f"the file takes {self.in_channels} channels, and pictures have 1 or 3",
                hint="drop `images_from`; seeded inputs have any number",
            )
        mean, std = SCALES[self.scale]
        return Preprocessing(
            resize=min(self.input_size),
            crop=self.input_size,
            mean=(mean,) * self.in_channels,
            std=(std,) * self.in_channels,
            color="RGB" if self.in_channels == 3 else "L",
        )

    def taken(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Uint8 pixels (N x H x W x C), as the file takes them."""
        if self.pixels:
            return self._ordered(pixels.transpose(0, 3, 1, 2))
        return self._ordered(self.normalize(pixels))

    def adversarial(self) -> tuple[tuple[str, ...], NDArray[Any]]:
        """Kinds of adversarial inputs, and one of each, as the file takes them."""
        made: Adversarial = adversarial_inputs(self, self)
        if self.pixels:
            return made.names[: len(made.pixels)], self.taken(made.pixels)
        return made.names, self._ordered(made.images)

    def _ordered(self, images: NDArray[Any]) -> NDArray[Any]:
        if self.layout == "nhwc":
            images = images.transpose(0, 2, 3, 1)
        if self.layout == "features":
            images = images.reshape(len(images), -1)
        return np.ascontiguousarray(images)


def frame_of(manifest: Manifest) -> Frame:
    """Size and channels of the images that an artifact takes."""
    return manifest.config or Feed.of(manifest.inputs[0])


def seeded_inputs(manifest: Manifest, count: int, seed: int = 0) -> NDArray[Any]:
    """Different images, as the artifact takes them; float32 for any floating-point type."""
    pixels = seeded_pixels(frame_of(manifest), count, seed)
    if manifest.preprocessing is None:
        return Feed.of(manifest.inputs[0]).taken(pixels)
    return pixels if manifest.preprocessing_baked else manifest.prepared.normalize(pixels)
