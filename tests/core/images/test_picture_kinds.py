"""Pictures that have more than one reading are read in the declared way or refused, never misread
in silence.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from resnext.errors import BadInput
from resnext.images.preprocessing import Preprocessing

GRAY = Preprocessing(resize=8, crop=(8, 8), mean=(0.5,), std=(0.5,), color="L")
PIXELS = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)


def test_sixteen_bit_gray_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    PIL.Image.fromarray(PIXELS.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(GRAY.load(tmp_path / "deep.png")[0, :, :, 0], PIXELS)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray((PIXELS / 255).astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(BadInput, match="floating-point"):
        GRAY.load(tmp_path / "float.tiff")


def test_a_see_through_picture_is_refused_and_an_opaque_one_is_read(tmp_path: Path) -> None:
    rgba = np.dstack([PIXELS] * 3 + [np.full((8, 8), 255, np.uint8)])
    PIL.Image.fromarray(rgba).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(GRAY.load(tmp_path / "opaque.png")[0, :, :, 0], PIXELS)
    rgba[0, 0, 3] = 0
    PIL.Image.fromarray(rgba).save(tmp_path / "clear.png")
    with pytest.raises(BadInput, match="see-through"):
        GRAY.load(tmp_path / "clear.png")


def test_a_picture_is_turned_upright_as_its_orientation_says(tmp_path: Path) -> None:
    image = PIL.Image.fromarray(PIXELS)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(
        GRAY.load(tmp_path / "turned.png")[0, :, :, 0], np.rot90(PIXELS, -1)
    )


def test_a_picture_out_of_all_proportion_is_refused_before_it_eats_the_memory(
    tmp_path: Path,
) -> None:
    PIL.Image.new("L", (1, 30000)).save(tmp_path / "thin.png")
    wide = GRAY.model_copy(update={"resize": 256, "crop": (224, 224)})
    with pytest.raises(BadInput, match="too oblong"):
        wide.load(tmp_path / "thin.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.new("L", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(BadInput, match="cannot read the image"):
        GRAY.load(tmp_path / "bomb.png")
