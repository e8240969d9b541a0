"""Ways in which a port reads pictures, right and wrong."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from resnext.images.preprocessing import Preprocessing, eight_bits

#: Each step of reading a picture: the value that is right, then each known mistake with what to say
#: of it.
STEPS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "channels": {
            "rgb": "",
            "bgr": "the channels are BGR, as OpenCV reads pictures; the network takes RGB",
        },
        "geometry": {
            "ours": "",
            "corner": "the crop is taken from the top left corner, not from the center",
            "no-margin": "the shorter side is resized to the input size itself, so nothing is left"
            " to crop: resize it to {resize} first",
            "square": "the picture is resized to a square before the crop; keep its aspect ratio",
            "squeezed": "the picture is resized to the input size directly; keep its aspect ratio,"
            " and crop the center",
            "letterbox": "the whole picture is fitted into the input with a black border; resize"
            " the shorter side, and crop the center",
            "offset-down": "crop rounding: an offset of half a pixel is rounded down; round halves"
            " to the even number",
            "offset-up": "crop rounding: an offset of half a pixel is rounded up; round halves to"
            " the even number",
            "longer-rounded": "crop rounding: the longer side is rounded to the nearest pixel; cut"
            " off the fraction, int(resize * longer / shorter)",
            "longer-rounded-offset-down": "crop rounding: the longer side is rounded to the"
            " nearest pixel, and the crop's offset down; cut off the fraction of the side, and"
            " round halves of the offset to the even number",
            "longer-up": "crop rounding: the longer side is rounded up; cut off the fraction,"
            " int(resize * longer / shorter)",
        },
        "resampling": {
            "ours": "",
            "no-antialias": "no antialias: the resize looks at too few pixels when it shrinks a"
            " picture, as OpenCV's INTER_LINEAR and INTER_CUBIC do, and PyTorch's interpolate"
            " without antialias; widen the filter with the scale, as Pillow does",
            "nearest": "the resize takes the nearest pixel",
            "other": "the resize interpolates {other}, not {ours}",
            "other-no-antialias": "the resize interpolates {other}, not {ours}, and without"
            " antialias; widen the filter with the scale, as Pillow does",
            "area": "the resize averages areas (OpenCV's INTER_AREA), it must be {ours}",
            "lanczos": "the resize is Lanczos', it must be {ours}",
            "corners": "the resize aligns the corners (align_corners) and has no antialias; align"
            " the edges of pixels, and widen the filter with the scale",
            "left": "the resize scales coordinates without the half pixel, and has no antialias;"
            " align the edges of pixels, and widen the filter with the scale",
        },
        "exif": {
            "upright": "",
            "ignored": "EXIF orientation is ignored: turn pictures upright first",
        },
        "cmyk": {
            "ours": "",
            "inverted": "CMYK is inverted: JPEGs of Adobe's programs store 255 minus the ink",
        },
        "range": {
            "full": "",
            "limited": "the color range is 16 to 235, as video has it; it must be 0 to 255",
            "expanded": "the color range is stretched as if it were video's 16 to 235; pictures"
            " have 0 to 255",
        },
        "mirrored": {
            "no": "",
            "sideways": "the picture is mirrored sideways",
            "upside-down": "the rows are upside down",
        },
    }
)
_PILLOWS = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}
_OTHER = {"bilinear": "bicubic", "bicubic": "bilinear"}
_OF_PILLOW = {
    "nearest": Resampling.NEAREST,
    "area": Resampling.BOX,
    "lanczos": Resampling.LANCZOS,
}
#: Coefficient of the cubic without antialias: OpenCV's and PyTorch's. Pillow's is -0.5.
_CUBIC = -0.75


@dataclass(frozen=True)
class Reading:
    """One choice of each of `STEPS`; by default the right ones."""

    channels: str = "rgb"
    geometry: str = "ours"
    resampling: str = "ours"
    exif: str = "upright"
    cmyk: str = "ours"
    range: str = "full"
    mirrored: str = "no"

    def changed(self, step: str, value: str) -> Reading:
        """With another choice of one step."""
        return replace(self, **{step: value})

    def right(self, step: str) -> Reading:
        """With the right choice of one step."""
        return self.changed(step, next(iter(STEPS[step])))


class Port:
    """A program that reads some pictures, in any way; what it computed once is kept.

    Args:
        pictures: files, of formats that Pillow reads.
        preprocessing: what it is meant to do.
    """

    def __init__(self, pictures: Sequence[bytes], preprocessing: Preprocessing) -> None:
        self._pictures = pictures
        self._preprocessing = preprocessing
        self._decoded: dict[tuple[str, str], list[Image]] = {}
        self._cropped: dict[Reading, NDArray[np.uint8]] = {}

    def pixels(self, reading: Reading) -> NDArray[np.float32]:
        """What it makes of the pictures: N x H x W x C, in gray levels from 0 to 255."""
        pixels = self._before_levels(
            replace(reading, channels="rgb", range="full", mirrored="no")
        ).astype(np.float32)
        if reading.channels == "bgr":
            pixels = pixels[..., ::-1]
        if reading.range == "limited":
            pixels = np.rint(16 + pixels * np.float32(219 / 255))
        elif reading.range == "expanded":
            pixels = np.clip(np.rint((pixels - 16) * np.float32(255 / 219)), 0, 255)
        if reading.mirrored == "sideways":
            pixels = pixels[:, :, ::-1]
        elif reading.mirrored == "upside-down":
            pixels = pixels[:, ::-1]
        return pixels

    def _before_levels(self, reading: Reading) -> NDArray[np.uint8]:
        if reading not in self._cropped:
            how = (reading.exif, reading.cmyk)
            if how not in self._decoded:
                self._decoded[how] = [
                    _decoded(data, self._preprocessing.color, *how) for data in self._pictures
                ]
            self._cropped[reading] = np.stack(
                [_read(image, self._preprocessing, reading) for image in self._decoded[how]]
            )
        return self._cropped[reading]


def _decoded(data: bytes, color: str, exif: str, cmyk: str) -> Image:
    with PIL.Image.open(io.BytesIO(data)) as file:
        image: Image = file if exif == "ignored" else PIL.ImageOps.exif_transpose(file)
        if cmyk == "inverted" and image.mode == "CMYK":
            image = image.point(lambda level: 255 - level)
        if exif == "ignored":
            image = image.copy()
            image.getexif().clear()
        return eight_bits(image).convert(color)


def _read(image: Image, preprocessing: Preprocessing, reading: Reading) -> NDArray[np.uint8]:
    size, box = _geometry(image.size, preprocessing, reading.geometry)
    pixels = _resized(image, size, preprocessing, reading.resampling)
    return _cropped(pixels, box, preprocessing.crop)


def _geometry(
    size: tuple[int, int], preprocessing: Preprocessing, geometry: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height after the resize, and left and top of the crop."""
    (width, height), (crop_h, crop_w) = size, preprocessing.crop
    resized = preprocessing.resized(width, height)
    if geometry == "square":
        resized = (preprocessing.resize, preprocessing.resize)
    elif geometry == "squeezed":
        resized = (crop_w, crop_h)
    elif geometry == "letterbox":
        scale = min(crop_w / width, crop_h / height)
        resized = (max(1, round(width * scale)), max(1, round(height * scale)))
    elif geometry == "no-margin":
        resized = preprocessing.model_copy(update={"resize": min(crop_h, crop_w)}).resized(*size)
    elif geometry.startswith("longer"):
        to_whole: Callable[[float], int] = round if "rounded" in geometry else _up
        longer = to_whole(preprocessing.resize * max(size) / min(size))
        shape = (preprocessing.resize, longer)
        resized = shape if width <= height else (longer, preprocessing.resize)
    if geometry == "corner":
        return resized, (0, 0)
    rest = (resized[0] - crop_w, resized[1] - crop_h)
    if geometry.endswith("offset-down"):
        return resized, (rest[0] // 2, rest[1] // 2)
    if geometry.endswith("offset-up"):
        return resized, ((rest[0] + 1) // 2, (rest[1] + 1) // 2)
    return resized, (round(rest[0] / 2), round(rest[1] / 2))


def _up(value: float) -> int:
    return -int(-value // 1)


def _cropped(
    pixels: NDArray[np.uint8], box: tuple[int, int], crop: tuple[int, int]
) -> NDArray[np.uint8]:
    """The crop from (left, top); black where the picture ends."""
    left, top = box
    result = np.zeros((*crop, pixels.shape[2]), np.uint8)
    part = pixels[max(top, 0) : top + crop[0], max(left, 0) : left + crop[1]]
    down, right = max(-top, 0), max(-left, 0)
    result[down : down + part.shape[0], right : right + part.shape[1]] = part
    return result


def _resized(
    image: Image, size: tuple[int, int], preprocessing: Preprocessing, resampling: str
) -> NDArray[np.uint8]:
    """H x W x C."""
    ours = preprocessing.interpolation
    other = _OTHER[ours]
    pillows = {"ours": _PILLOWS[ours], "other": _PILLOWS[other], **_OF_PILLOW}
    if resampling in pillows:
        image = image.resize(size, pillows[resampling])
    levels = np.asarray(image).reshape(image.height, image.width, -1)
    if resampling in pillows:
        return levels
    kind = other if resampling == "other-no-antialias" else ours
    pixels = levels.astype(np.float32)
    for axis, length in ((0, size[1]), (1, size[0])):
        pixels = _sampled(pixels, axis, length, kind, resampling)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _sampled(
    pixels: NDArray[np.float32], axis: int, length: int, kind: str, resampling: str
) -> NDArray[np.float32]:
    """``length`` samples along an axis, each from the two or four pixels around it."""
    have = pixels.shape[axis]
    places = np.arange(length, dtype=np.float64)
    if resampling == "corners":
        at = places * ((have - 1) / max(length - 1, 1))
    elif resampling == "left":
        at = places * (have / length)
    else:
        at = (places + 0.5) * (have / length) - 0.5
    first = np.floor(at).astype(int)
    taps = (0, 1) if kind == "bilinear" else (-1, 0, 1, 2)
    weights = np.stack([_weight(at - first - tap, kind) for tap in taps])
    shape = [1, 1, 1]
    shape[axis] = length
    result = np.zeros((*pixels.shape[:axis], length, *pixels.shape[axis + 1 :]), np.float32)
    for tap, weight in zip(taps, weights, strict=True):
        rows = np.take(pixels, np.clip(first + tap, 0, have - 1), axis=axis)
        result += rows * weight.reshape(shape).astype(np.float32)
    return result


def _weight(distance: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    x = np.abs(distance)
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * _CUBIC - 4 * _CUBIC
    cubic = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weight: NDArray[np.float64] = np.maximum(1 - x, 0) if kind == "bilinear" else cubic
    return weight


def explanation(step: str, value: str, preprocessing: Preprocessing) -> str:
    """What to say of a mistake."""
    ours = preprocessing.interpolation
    return STEPS[step][value].format(ours=ours, other=_OTHER[ours], resize=preprocessing.resize)
