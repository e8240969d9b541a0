"""Pictures that are not what they seem."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import BadInput
from resnext.images.pictures import MOST_PIXELS
from resnext.images.preprocessing import default_preprocessing
from resnext.network.config import variant

GRAY = default_preprocessing(variant("resnext11_8x4d_digits"))
COLOR = default_preprocessing(variant("resnext50_32x4d"))
PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        GRAY.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ((10_000, 10_000), "cannot read"),
        ((8_001, 8_000), "at most 64000000"),
        ((1 << 30, 1 << 30), "cannot read"),
    ],
)
def test_too_many_pixels_of_one_color_are_refused_by_the_header(
    tmp_path: Path, size: tuple[int, int], why: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(*size, zlib.compress(bytes(1000))))
    start = time.perf_counter()
    assert why in refused(tmp_path / "a.png")
    assert time.perf_counter() - start < 0.5  # nothing was decoded
    assert 8_001 * 8_000 > MOST_PIXELS >= 61_000_000


@pytest.mark.parametrize("suffix", ["gif", "png", "tiff", "webp"])
def test_an_animation_or_several_pages_are_refused_and_one_frame_is_read(
    tmp_path: Path, suffix: str
) -> None:
    frames = [PIL.Image.new("L", (8, 8), level) for level in (0, 100, 200)]
    frames[0].save(tmp_path / f"many.{suffix}", save_all=True, append_images=frames[1:])
    assert "several frames" in refused(tmp_path / f"many.{suffix}")
    frames[1].save(tmp_path / f"one.{suffix}")
    assert abs(int(GRAY.load(tmp_path / f"one.{suffix}").mean()) - 100) < 3


def test_of_a_phones_two_pictures_in_one_file_the_first_is_read(tmp_path: Path) -> None:
    one, two = PIL.Image.new("L", (8, 8), 40), PIL.Image.new("L", (8, 8), 200)
    one.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[two])
    assert abs(int(GRAY.load(tmp_path / "a.jpg").mean()) - 40) < 3


def test_cmyk_is_converted_as_every_library_does(tmp_path: Path) -> None:
    rgb = PIL.Image.new("RGB", (256, 256), (200, 100, 50))
    rgb.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    pixels = COLOR.load(tmp_path / "a.jpg")[0, 100, 100].astype(int)
    assert np.abs(pixels - (200, 100, 50)).max() < 8


def test_a_format_that_needs_another_program_is_not_opened(tmp_path: Path) -> None:
    PIL.Image.fromarray(PIXELS).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert "is not an image of a format" in refused(tmp_path / "a.png")


def test_a_damaged_orientation_is_one_line_or_ignored(tmp_path: Path) -> None:
    image = PIL.Image.fromarray(PIXELS)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    image.save(data, "PNG", exif=exif)
    whole = data.getvalue()
    at = whole.index(b"eXIf")
    for offset in range(4, 40):
        raw = bytearray(whole)
        raw[at + offset] ^= 0xFF
        # The checksum fits again: PIL looks at it first.
        size = int.from_bytes(raw[at - 4 : at], "big")
        raw[at + 4 + size : at + 8 + size] = struct.pack(">I", zlib.crc32(raw[at : at + 4 + size]))
        (tmp_path / "a.png").write_bytes(raw)
        try:
            assert GRAY.load(tmp_path / "a.png").shape == (1, 8, 8, 1)
        except BadInput as exc:
            assert "\n" not in str(exc)  # noqa: PT017  # either is fine


def picture(suffix: str) -> bytes:
    data = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(data, suffix)
    return data.getvalue()


WHOLE = {suffix: picture(suffix) for suffix in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP")}


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_damaged_picture_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    raw = bytearray(WHOLE[suffix])
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(1, len(raw)))]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(raw)
    try:
        pixels = GRAY.load(path)
    except BadInput as exc:
        reason = str(exc)
    else:
        reason = ""
        assert pixels.shape == (1, 8, 8, 1)
    assert "\n" not in reason


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(
    tmp_path: Path, suffix: str
) -> None:
    out, image = io.BytesIO(), PIL.Image.new("L", (4000, 4000))
    image.save(out, "JPEG", progressive=True)
    jpeg = out.getvalue()
    last = jpeg.rindex(b"\xff\xda")
    if suffix == "tif":
        image.save(tmp_path / "a.tif", compression="jpeg")
        extra = b"\xff\xda" * 100  # after the picture, where nothing is decoded
        (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes() + extra)
    else:
        scans = jpeg[last:-2] * 2000
        (tmp_path / "a.jpg").write_bytes(jpeg[:last] + scans + b"\xff\xd9")
    start = time.perf_counter()
    assert "scans, at most 64 are accepted" in refused(tmp_path / f"a.{suffix}")
    assert time.perf_counter() - start < 5
    (tmp_path / "sound.jpg").write_bytes(jpeg)
    GRAY.load(tmp_path / "sound.jpg")


def test_numbers_as_text_are_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "small.ppm").write_bytes(b"P2 8 8 255\n" + b"1 " * 64)
    GRAY.load(tmp_path / "small.ppm")
    (tmp_path / "large.ppm").write_bytes(b"P2 8000 8000 255\n" + b"1 " * 8_000_000)
    assert "save it as binary PPM" in refused(tmp_path / "large.ppm")
