"""Inputs that no test set has: constant, extreme, sparse, saturated, denormal and huge.

Seeded images and photographs are moderate in every value. A clipped activation, an overflow or a
flushed denormal may show on none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .synthetic import Frame, seeded_pixels

_Shape = tuple[int, int, int]
#: Seed of the images below, apart from the seeds that a user names.
_SEED = 2**31 - 1
#: Gray levels of the channels of an image that is constant in each.
_LEVELS = (211, 37, 113)
#: Contrast of a saturated image, relative to the seeded one that it is made from.
_CONTRAST = 8.0


def _one_hot(shape: _Shape) -> NDArray[Any]:
    image = np.zeros(shape)
    image[shape[0] // 3, shape[1] // 3] = 255
    return image


def _extremes(shape: _Shape) -> NDArray[Any]:
    return np.random.Generator(np.random.PCG64(_SEED)).integers(0, 2, shape) * 255


#: Images of uint8 pixels by name; each is made from its shape, H x W x C.
PIXELS: Mapping[str, Callable[[_Shape], NDArray[Any]]] = MappingProxyType(
    {
        "zeros": np.zeros,
        "maximum": lambda shape: np.full(shape, 255),
        "checkerboard": lambda shape: np.indices(shape)[:2].sum(axis=0) % 2 * 255,
        "one hot pixel": _one_hot,
        "constant channels": lambda shape: np.broadcast_to(np.resize(_LEVELS, shape[2]), shape),
        "extremes": _extremes,
    }
)
#: Further inputs if the artifact takes floats: a normalized image times a factor. A denormal is
#: below 1.2e-38; no picture gives values beyond about 2.6.
FACTORS: Mapping[str, float] = MappingProxyType(
    {"denormals": 1e-39, "large values": 100.0, "huge values": 10_000.0}
)
#: Only every so many lines hold denormals, the others zeros: a processor takes so long for them
#: that an image full of them costs as much as four others.
_DENORMAL_LINES = 16


@dataclass(frozen=True)
class Adversarial:
    """One input of each kind.

    Attributes:
        names: kind of each of ``images``.
        pixels: the first of them as uint8, P x H x W x C.
        images: all of them, preprocessed: N x C x H x W, float32.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    images: NDArray[np.float32]

    def inputs(self, *, baked: bool) -> NDArray[Any]:
        """Those that an artifact takes: the pixels if it preprocesses them itself, else all."""
        return self.pixels if baked else self.images


class Normalizing(Protocol):
    """What makes inputs of pixels, for example `resnext.images.preprocessing.Preprocessing`."""

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 pixels (N x H x W x C) to float32 input (N x C x H x W)."""


def adversarial_inputs(config: Frame, preprocessing: Normalizing) -> Adversarial:
    """The same inputs for every seed, so that their reference logits come from the cache."""
    shape = (*config.input_size, config.in_channels)
    image = seeded_pixels(config, 1, _SEED)
    saturated = np.clip(127.5 + _CONTRAST * (image - 127.5), 0, 255)
    pixels = np.concatenate([np.stack([make(shape) for make in PIXELS.values()]), saturated])
    pixels = pixels.astype(np.uint8)
    normalized = preprocessing.normalize(image)
    scaled = {kind: normalized * np.float32(factor) for kind, factor in FACTORS.items()}
    scaled["denormals"][:, :, np.arange(shape[0]) % _DENORMAL_LINES != 0] = 0
    return Adversarial(
        names=(*PIXELS, "saturated", *FACTORS),
        pixels=pixels,
        images=np.concatenate([preprocessing.normalize(pixels), *scaled.values()]),
    )
