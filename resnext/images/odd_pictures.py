"""Eight pictures on which ways to preprocess differ, drawn by code."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from .preprocessing import Preprocessing

_ORIENTATION = 0x0112
#: Widths that are tried until rounding decides the crop.
_TRIED = 512


@dataclass(frozen=True)
class OddPicture:
    """One picture.

    Attributes:
        name: of its file.
        about: what is odd about it.
        data: the bytes of the file.
    """

    name: str
    about: str
    data: bytes


def odd_pictures(preprocessing: Preprocessing) -> tuple[OddPicture, ...]:
    """Pictures whose pixels show each usual mistake of a port.

    Every size depends on that of the network's input, so that resizing shrinks some and enlarges
    others, and the rounding of the crop differs between usual implementations.
    """
    unit = preprocessing.resize
    turned = _scene(*_telling(preprocessing, 2 * unit + 1, 1))
    height, width = _telling(preprocessing, 4 * unit // 3 + 1, 3, below=True)
    upright = _scene(width, height).convert(
        "P", palette=PIL.Image.Palette.WEB, dither=PIL.Image.Dither.NONE
    )
    exif = PIL.Image.Exif()
    exif[_ORIENTATION] = 6  # to be shown turned by 90 degrees
    return (
        OddPicture(
            "1-exif.jpg",
            "JPEG with EXIF orientation 6: it is stored lying on its side",
            _encoded(turned.rotate(90, expand=True), "JPEG", exif=exif.tobytes()),
        ),
        OddPicture(
            "2-gray.png",
            "one channel; sides whose resized length is not whole",
            _encoded(_scene(*_telling(preprocessing, unit + 9, 3)).convert("L"), "PNG"),
        ),
        OddPicture(
            "3-cmyk.jpg",
            "CMYK, inverted as Adobe's programs write it",
            _encoded(_scene(*_telling(preprocessing, unit + 21, 2)).convert("CMYK"), "JPEG"),
        ),
        OddPicture(
            "4-opaque.png",
            "RGBA, all opaque",
            _encoded(_scene(*_telling(preprocessing, 3 * unit // 2 + 5, 1)).convert("RGBA"), "PNG"),
        ),
        OddPicture("5-palette.png", "colors from a palette", _encoded(upright, "PNG")),
        OddPicture("6-thin.png", "one pixel wide, nine high", _encoded(_scene(1, 9), "PNG")),
        OddPicture("7-small.png", "11 x 7 pixels, to be enlarged", _encoded(_scene(11, 7), "PNG")),
        OddPicture(
            "8-fine.png",
            "stripes far finer than the input's pixels, which a resize must average",
            _encoded(_stripes(*_telling(preprocessing, 4 * unit + 3, 1)), "PNG"),
        ),
    )


def _telling(
    preprocessing: Preprocessing, shorter: int, rest: int, *, below: bool = False
) -> tuple[int, int]:
    """Width and height: about 3:2, ``shorter`` high, such that the resized longer side loses more
    than half a pixel (less if ``below``), and what the crop leaves of it is ``rest`` modulo 4: with
    3 half of it is rounded up to the even number, with 1 down.
    """
    start = shorter * 3 // 2
    for width in range(start, start + _TRIED):
        resized, _ = preprocessing.resized(width, shorter)
        lost = preprocessing.resize * width / shorter - resized
        telling = 0.1 < lost < 0.5 if below else lost > 0.5
        if telling and (resized - preprocessing.crop[1]) % 4 == rest:
            return width, shorter
    return start, shorter


def _scene(width: int, height: int) -> PIL.Image.Image:
    """Waves of several lengths, another mixture in each channel, nowhere symmetric."""
    y, x = np.mgrid[0:height, 0:width]
    x, y = x * 1680 // width, y * 1680 // height

    def wave(position: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """From 0 to 255 and back in ``length``."""
        rising: NDArray[np.int64] = np.abs(position % length * 2 - length) * 255 // length
        return rising

    channels = (
        (3 * wave(2 * x + y, 1100) + wave(x - 3 * y, 190)) // 4,
        (2 * wave(x + 3 * y + 400, 2700) + wave(5 * x, 410)) // 3,
        (wave(3 * x - y, 640) + 2 * wave(x * y // 700, 900)) // 3,
    )
    return PIL.Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _stripes(width: int, height: int) -> PIL.Image.Image:
    """Stripes of 2 to 5 pixels, upright on the left, level on the right, colored differently."""
    y, x = np.mgrid[0:height, 0:width]
    upright, level = (x % 3 == 0) * 255, (y % 5 < 2) * 230
    left = x < width // 2
    channels = (
        np.where(left, upright, level),
        np.where(left, (x % 5 < 2) * 240, (y % 2) * 255),
        np.where(left, x * 255 // width, (y % 3 == 1) * 250),
    )
    return PIL.Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _encoded(image: PIL.Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    if form == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    image.save(stream, form, **options)
    return stream.getvalue()
