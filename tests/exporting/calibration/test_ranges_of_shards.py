"""Ranges over shards are those of one pass over all their images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from exported import export_onnx
from fakes.shelves import folder_of, png, tar_of
from resnext.images.sources import image_source
from resnext.weights.spec import load_weights
from resnext_export.calibration.collect import calibrate
from resnext_export.calibration.ranges import Ranges

WEIGHTS = load_weights("digits")
PICTURES = [(f"{number:02d}.png", png(number * 11)) for number in range(20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(WEIGHTS, tmp_path_factory.mktemp("ranges") / "a", check=False).path


def ranges(model: Path, source: Path, method: Literal["minmax", "percentile"]) -> Ranges:
    images = image_source(str(source), WEIGHTS.preprocessing, split="calibration")
    pixels = images.pixels(0, len(images))
    batches = (WEIGHTS.preprocessing.normalize(pixels[at : at + 3]) for at in range(0, 20, 3))
    some = [batch for batch in batches if len(batch)]
    return calibrate(model, some, method, source="shards", source_sha256=images.digest)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_shards_have_the_ranges_of_the_folder_that_they_were_made_of(
    model: Path, tmp_path: Path, method: Literal["minmax", "percentile"]
) -> None:
    for number, cut in enumerate((slice(0, 7), slice(7, 13), slice(13, 20))):
        tar_of(tmp_path / "tars" / f"{number}.tar", PICTURES[cut])
    whole = ranges(model, folder_of(tmp_path / "folder", PICTURES), method)
    assert ranges(model, tmp_path / "tars", method).ranges == whole.ranges
    if method == "minmax":  # which merges exactly
        alone = [ranges(model, path, method).ranges for path in (tmp_path / "tars").iterdir()]
        for name, ends in whole.ranges.items():
            lows, highs = np.array([each[name] for each in alone]).T
            assert ends == (lows.min(), highs.max())
        assert any(each != whole.ranges for each in alone)
