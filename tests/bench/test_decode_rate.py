"""The pictures that decoding is timed with, and the table."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import decode_rate
from decode_rate import main, photographs


def slope(image: PIL.Image.Image) -> float:
    """Of the logarithm of amplitude against that of frequency, over three octaves."""
    square = np.asarray(image.convert("L"), float)[:375, 60:435]
    window = np.hanning(375)
    amplitudes = abs(np.fft.rfft2((square - square.mean()) * window * window[:, None]))
    frequency = np.hypot(np.fft.fftfreq(375)[:, None] * 375, np.fft.rfftfreq(375) * 375)
    bands = [(frequency >= low) & (frequency < 1.4 * low) for low in (6, 12, 24, 48)]
    x, y = (np.log([each[band].mean() for band in bands]) for each in (frequency, amplitudes))
    return float(np.polyfit(x, y, 1)[0])


def test_the_amplitudes_of_a_picture_fall_as_one_over_the_frequency() -> None:
    first, again = (next(photographs(1)) for _ in range(2))
    assert first == again
    image = PIL.Image.open(io.BytesIO(first))
    assert image.size == (500, 375)
    assert slope(image) == pytest.approx(-1, abs=0.2)
    noise = np.random.default_rng(0).permuted(np.asarray(image), axis=1)
    assert slope(PIL.Image.fromarray(noise)) > -0.5


def test_every_number_of_threads_takes_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, data in enumerate(photographs(3)):
        (tmp_path / f"{index}.JPEG").write_bytes(data)
    turns = []

    def fake(paths: list[Path], _: object, threads: int) -> float:
        turns.append((len(paths), threads))
        return 100.0 * threads + len(turns)

    monkeypatch.setattr(decode_rate, "rate", fake)
    options = ["--pictures", "2", "--rounds", "2", "--threads", "1,4"]
    result = CliRunner().invoke(main, [str(tmp_path), *options])
    assert turns == [(2, 1), (2, 4)] * 3
    # the first round is not counted
    assert result.output.splitlines()[-2:] == ["| 1 | 104 | 103 | 105 |", "| 4 | 405 | 404 | 406 |"]


def test_pictures_are_decoded() -> None:
    result = CliRunner().invoke(main, ["--pictures", "2", "--rounds", "1", "--threads", "2"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("2 JPEG files of ")
    assert int(result.output.splitlines()[-1].split("|")[2]) > 1
