"""Seeded test images: smooth, colored and distinct, so that their outputs are distinct too.

Plain noise is a poor probe: after global pooling every noise image looks alike, and a wrong network
still agrees on top-1. These images are sums of a few waves of random direction, wavelength and
color, with some noise on top. They are the same on every machine to within one gray level (libm's
cosine may round differently).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_WAVES = 6


class Frame(Protocol):
    """Size and channels of a network's images, as its configuration has them."""

    @property
    def in_channels(self) -> int:
        """Number of channels."""

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width), pixels."""


def seeded_pixels(config: Frame, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """``count`` uint8 images, N x H x W x C; image ``i`` depends only on ``seed`` and ``i``."""
    height, width = config.input_size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / max(height, width), x / max(height, width)
    images = np.empty((count, height, width, config.in_channels), np.uint8)
    for index in range(count):
        rng = np.random.Generator(np.random.PCG64([seed, index]))
        image = np.zeros((height, width, config.in_channels))
        for _ in range(_WAVES):
            angle = rng.uniform(0, 2 * np.pi)
            cycles = 2.0 ** rng.uniform(-1, 4)
            phase = rng.uniform(0, 2 * np.pi)
            color = rng.uniform(-1, 1, config.in_channels)
            wave = np.cos(2 * np.pi * cycles * (np.cos(angle) * x + np.sin(angle) * y) + phase)
            image += wave[:, :, np.newaxis] * color
        image += rng.uniform(-1, 1, image.shape) * rng.uniform(0, 1)
        image = 128 + rng.uniform(-40, 40) + image * (rng.uniform(25, 70))
        images[index] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return images
