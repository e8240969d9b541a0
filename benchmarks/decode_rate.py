"""Measures how many JPEG files a second become input of ResNeXt-50, by number of threads.

    python benchmarks/decode_rate.py [--pictures 64] [--rounds 9] [--threads 1,2] [FOLDER]

Each file is read, decoded by Pillow, resized, cropped and normalized, as `Preprocessing` does it.
Without FOLDER, pictures of 500x375 pixels are drawn, quality 75, whose spectrum falls like that of
photographs (amplitude as one over the frequency). Yours have other sizes: measure them.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import click
import numpy as np
import PIL
import PIL.Image

from resnext.images.preprocessing import Preprocessing, default_preprocessing
from resnext.network.config import variant

WIDTH, HEIGHT, QUALITY = 500, 375, 75
#: How far each of R, G, B follows one common picture; the colors of photographs differ little.
COMMON = 0.9


def photographs(count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` JPEG files."""
    y, x = np.fft.fftfreq(HEIGHT)[:, None] * HEIGHT, np.fft.rfftfreq(WIDTH)[None] * WIDTH
    frequency = np.hypot(y * WIDTH / HEIGHT, x)
    frequency[0, 0] = np.inf  # no mean
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        planes = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal((4, HEIGHT, WIDTH))) / frequency, (HEIGHT, WIDTH)
        )
        planes /= planes.std(axis=(1, 2), keepdims=True)
        mixed = COMMON * planes[:1] + np.sqrt(1 - COMMON**2) * planes[1:]
        pixels = np.clip(120 + 55 * mixed, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
        yield file.getvalue()


def rate(paths: list[Path], preprocessing: Preprocessing, threads: int) -> float:
    """Images per second, all of ``paths`` once."""

    def become_input(path: Path) -> None:
        preprocessing.normalize(preprocessing.load(path))

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for _ in pool.map(become_input, paths):
            pass
        return len(paths) / (time.perf_counter() - began)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("folder", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--pictures", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@click.option("--threads", default="1,2", show_default=True, help="Numbers of threads, by turns.")
def main(folder: Path | None, pictures: int, rounds: int, threads: str) -> None:
    """Print a table: each round visits every number of threads."""
    preprocessing = default_preprocessing(variant("resnext50_32x4d"))
    counts = [int(each) for each in threads.split(",")]
    with tempfile.TemporaryDirectory() as work:
        if folder is None:
            folder = Path(work)
            for index, data in enumerate(photographs(pictures)):
                (folder / f"{index:05}.jpg").write_bytes(data)
        paths = sorted(islice(folder.rglob("*.[jJ][pP]*[gG]"), pictures))
        size = statistics.fmean(path.stat().st_size for path in paths)
        rates: dict[int, list[float]] = {count: [] for count in counts}
        for index in range(rounds + 1):
            for count in counts:
                if index:  # the first warms up
                    rates[count].append(rate(paths, preprocessing, count))
                else:
                    rate(paths, preprocessing, count)
    click.echo(f"{len(paths)} JPEG files of {size:,.0f} bytes, Pillow {PIL.__version__}\n")
    click.echo("| threads | images/s, median | least | most |\n| ---: | ---: | ---: | ---: |")
    for count, each in rates.items():
        values = statistics.median(each), min(each), max(each)
        click.echo(f"| {count} | {' | '.join(f'{value:.0f}' for value in values)} |")


if __name__ == "__main__":
    main()
