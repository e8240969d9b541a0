"""JPEG decoders against the reference preprocessing: how fast, and whether the pixels are the same.

    python benchmarks/decode_benchmark.py ENVIRONMENTS [--rounds N] [--photos FOLDER] [--json PATH]

ENVIRONMENTS is a folder for throwaway virtual environments; those that are missing are made with
pip. PyTurboJPEG also needs the system's libturbojpeg; a decoder that does not start is left out.
Each decoder runs in a process of its environment, one thread, and decodes, resizes (shorter side
256) and crops (224) the same photos. In each round every decoder has a turn, in random order, and
its time is compared with that of Pillow in the same round, so that a busy machine disturbs both.
Pixels are compared with `Preprocessing.to_pixels` of this toolkit.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

RESIZE, CROP = 256, 224
#: Packages of each environment; Pillow's release is the one that runs this script.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "pillow": ("numpy", "{pillow}"),
    "simd": ("numpy", "pillow-simd"),
    "others": ("numpy", "{pillow}", "simplejpeg", "PyTurboJPEG", "opencv-python-headless"),
}
#: The environment of each decoder; the first is what others are compared with.
DECODERS = {
    "pillow": "pillow",
    "pillow again": "pillow",
    "pillow copies": "pillow",
    "pillow draft": "pillow",
    "pillow-simd": "simd",
    "simplejpeg": "others",
    "simplejpeg fast": "others",
    "turbojpeg": "others",
    "opencv": "others",
}
#: Width and height of the sources.
SOURCES = {"500x375": (500, 375), "1080p": (1920, 1080)}


def finish(image: Any) -> Any:
    """Resize and crop an RGB picture of Pillow, as the toolkit's preprocessing does."""
    modes = import_module("PIL.Image").Resampling
    width, height = image.size
    longer = int(RESIZE * max(width, height) / min(width, height))
    size = (RESIZE, longer) if width <= height else (longer, RESIZE)
    image = image.resize(size, modes.BILINEAR)
    left, top = round((size[0] - CROP) / 2), round((size[1] - CROP) / 2)
    return import_module("numpy").asarray(image.crop((left, top, left + CROP, top + CROP)))


def decoder(name: str) -> Callable[[bytes], Any]:
    """From the bytes of a JPEG to uint8 pixels, CROP x CROP x 3."""
    pillow = import_module("PIL.Image")

    def with_pillow(data: bytes) -> Any:
        with pillow.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if name == "pillow draft":
                image.draft("RGB", (RESIZE, RESIZE))
            if name == "pillow copies":  # what a plain conversion does to a picture that is RGB
                return finish(import_module("PIL.ImageOps").exif_transpose(image).convert("RGB"))
            return finish(image)

    if name.startswith("pillow"):
        return with_pillow
    if name.startswith("simplejpeg"):
        decode, fast = import_module("simplejpeg").decode_jpeg, name.endswith("fast")
        return lambda data: finish(
            pillow.fromarray(decode(data, "RGB", fastdct=fast, fastupsample=fast))
        )
    if name == "turbojpeg":
        module = import_module("turbojpeg")
        turbo = module.TurboJPEG()
        return lambda data: finish(
            pillow.fromarray(turbo.decode(data, pixel_format=module.TJPF_RGB))
        )
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)

    def with_opencv(data: bytes) -> Any:
        numpy = import_module("numpy")
        image = cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_COLOR)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        longer = int(RESIZE * max(width, height) / min(width, height))
        size = (RESIZE, longer) if width <= height else (longer, RESIZE)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        left, top = round((size[0] - CROP) / 2), round((size[1] - CROP) / 2)
        return image[top : top + CROP, left : left + CROP]

    return with_opencv


def serve(name: str, photos: Path) -> None:
    """In a decoder's environment: for each line on stdin, decode all photos of that source and
    print the ns of one; ``pixels FILE`` writes the pixels.
    """
    decode = decoder(name)
    groups = {
        source: [path.read_bytes() for path in sorted((photos / source).iterdir())]
        for source in SOURCES
    }
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        source, _, target = line.strip().partition(" ")
        if target:
            numpy = import_module("numpy")
            numpy.save(target, numpy.stack([decode(data) for data in groups[source]]))
            sys.stdout.write("done\n")
        else:
            start = time.perf_counter_ns()
            for data in groups[source]:
                decode(data)
            taken = time.perf_counter_ns() - start
            sys.stdout.write(f"{taken // len(groups[source])}\n")
        sys.stdout.flush()


def make_photos(folder: Path) -> None:
    """Photos of scikit-learn, cut and mirrored to the sizes of `SOURCES`, JPEG at quality 90."""
    from PIL import Image, ImageOps
    from sklearn.datasets import load_sample_images

    for source, (width, height) in SOURCES.items():
        (folder / source).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(load_sample_images().images):
            photo = Image.fromarray(pixels)
            wide = Image.new("RGB", (photo.width * 3, photo.height * 3))
            for row in range(3):
                for column in range(3):
                    tile = ImageOps.mirror(photo) if column % 2 else photo
                    tile = ImageOps.flip(tile) if row % 2 else tile
                    wide.paste(tile, (column * photo.width, row * photo.height))
            for shift in range(4):
                left, top = 17 * shift, 11 * shift
                cut = wide.crop((left, top, left + width, top + height))
                cut.save(folder / source / f"{number}-{shift}.jpg", quality=90)


def made(folder: Path) -> dict[str, Path]:
    """The Python of each environment in ``folder``, which is made if it is not there."""
    import PIL

    pythons = {}
    for name, packages in ENVIRONMENTS.items():
        pythons[name] = folder / name / "bin" / "python"
        if not pythons[name].exists():
            venv.create(folder / name, with_pip=True)
            wanted = [it.format(pillow=f"pillow=={PIL.__version__}") for it in packages]
            subprocess.run([pythons[name], "-m", "pip", "install", "-q", *wanted], check=True)
    return pythons


def reference(photos: Path) -> dict[str, Any]:
    """The toolkit's pixels of each source, N x CROP x CROP x 3."""
    import numpy as np

    from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

    preprocessing = Preprocessing(
        resize=RESIZE, crop=(CROP, CROP), mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    return {
        source: np.concatenate(
            [preprocessing.load(path) for path in sorted((photos / source).iterdir())]
        )
        for source in SOURCES
    }


def has_ended(process: subprocess.Popen[str]) -> bool:
    """Whether a decoder's process has ended instead of being ready."""
    assert process.stdout is not None
    if process.stdout.readline().strip() == "ready":
        return False
    process.communicate()
    return True


def measure(pythons: dict[str, Path], photos: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each decoder and source."""
    import numpy as np

    processes = {
        name: subprocess.Popen(
            [pythons[environment], "-I", __file__, "--serve", name, str(photos)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name, environment in DECODERS.items()
    }

    def ask(name: str, line: str) -> str:
        process = processes[name]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    for name in [it for it, process in processes.items() if has_ended(process)]:
        sys.stdout.write(f"{name} does not start here, and is left out\n")
        del processes[name]
    want, rows = reference(photos), []
    order = random.Random(0)
    for source in SOURCES:
        times: dict[str, list[int]] = {name: [] for name in processes}
        for _ in range(rounds + 1):  # the first warms up
            for name in order.sample(list(processes), len(processes)):
                times[name].append(int(ask(name, source)))
        for name in processes:
            target = photos / f"{name}-{source}.npy"
            ask(name, f"{source} {target}")
            apart = np.abs(np.load(target).astype(int) - want[source])
            first = times["pillow"][1:]
            ratios = sorted(a / b for a, b in zip(first, times[name][1:], strict=True))
            rows.append(
                {
                    "source": source,
                    "decoder": name,
                    "speedup": statistics.median(ratios),
                    "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
                    "equal": not apart.any(),
                    "changed": float((apart > 0).mean()),
                    "largest": int(apart.max()),
                }
            )
    for process in processes.values():
        process.communicate()
    return rows


def main() -> None:
    """Measure, and print a table."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("environments", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--photos", type=Path, help="folders 500x375 and 1080p of JPEGs")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    photos = asked.photos or asked.environments / "photos"
    if asked.photos is None:
        make_photos(photos)
    rows = measure(made(asked.environments), photos.resolve(), asked.rounds)
    for row in rows:
        low, high = row["quartiles"]
        pixels = (
            "equal" if row["equal"] else f"{row['changed']:.1%} differ, by up to {row['largest']}"
        )
        sys.stdout.write(
            f"{row['source']:8}  {row['decoder']:16}  {row['speedup']:5.2f} times Pillow"
            f" ({low:.2f} to {high:.2f})  {pixels}\n"
        )
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
