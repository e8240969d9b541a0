"""Opens a picture file, if it is one whose pixels have a single meaning."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import PIL.Image
from PIL.Image import Image

from resnext.errors import BadInput
from resnext.readers.files import MIB, MOST_PICTURE, exists, open_file

#: Formats that are opened; some of PIL's others start programs or are rarely tested.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
#: Most pixels of a picture, as its header says; full-frame cameras have 61 million.
MOST_PIXELS = 64_000_000
#: Most scans of a JPEG, each of which touches every pixel; progressive ones have about 10.
_MOST_SCANS = 64
#: Largest PPM file with numbers as text, bytes, which PIL reads slowly.
_MOST_TEXT = 8 * MIB


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """A picture, not decoded yet, closed after the block.

    Raises:
        BadInput: the file is missing, not regular, or not a picture of one of `FORMATS`; it has
            more than `MOST_PIXELS`, several frames, or far more work in it than pixels; or the
            block fails.
    """
    if not exists(path):
        raise BadInput(f"no image at {path}")
    with open_file(path, MOST_PICTURE) as file, _opened(file, str(path)) as image:
        yield image


@contextmanager
def opened_bytes(data: bytes, name: str) -> Iterator[Image]:
    """As `opened`, for the bytes of a picture that is not a file of its own.

    Args:
        data: the picture.
        name: what messages call it.

    Raises:
        BadInput: as `opened`.
    """
    if not data:
        raise BadInput(f"cannot read {name}: it is empty")
    if len(data) > MOST_PICTURE:
        raise BadInput(
            f"cannot read {name}: it has {len(data)} bytes, at most {MOST_PICTURE} are accepted"
        )
    with io.BytesIO(data) as file, _opened(file, name) as image:
        yield image


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        # Of metadata that do not matter here: damaged EXIF, odd TIFF tags.
        warnings.simplefilter("ignore", UserWarning)
        try:
            with PIL.Image.open(file, formats=FORMATS) as image:
                _check_header(image)
                _check_work(file, image)
                yield image
        except BadInput as exc:
            raise BadInput(f"{name}: {exc}") from exc
        except PIL.UnidentifiedImageError as exc:
            raise BadInput(
                f"{name} is not an image of a format that is read here ({', '.join(FORMATS)})"
            ) from exc
        except Exception as exc:  # damaged pictures make PIL raise many types
            reason = " ".join(str(exc).split()) or type(exc).__name__
            raise BadInput(f"cannot read the image {name}: {reason[:200]}") from exc


def _check_header(image: Image) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BadInput(
            f"it has {width}x{height} pixels, at most {MOST_PIXELS} are accepted; make it smaller"
        )
    # In MPO, which phones write with suffix .jpg, the first picture is the one that is shown.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise BadInput("it has several frames or pages; save the one to look at")


def _check_work(file: BinaryIO, image: Image) -> None:
    """Refuse what takes far longer to decode than its pixels do."""
    position = file.tell()
    file.seek(0)
    text = file.read(2) in (b"P1", b"P2", b"P3")
    if text and file.seek(0, os.SEEK_END) > _MOST_TEXT:
        raise BadInput("its numbers are text, and it is large; save it as binary PPM")
    if image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg":
        file.seek(0)
        # In compressed data, a zero follows each 0xff that does not begin a marker.
        scans = file.read().count(b"\xff\xda")
        if scans > _MOST_SCANS:
            raise BadInput(
                f"it has {scans} scans, at most {_MOST_SCANS} are accepted; save it anew"
            )
    file.seek(position)
