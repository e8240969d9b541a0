"""Labeled data sets from installed packages; nothing is downloaded."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnext.errors import BadInput, MissingRequirement

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_DATA = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Dataset:
    """Uint8 images (N x H x W x 1) with int64 labels (N), split into training and test."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels; every fifth is test.

    Gray levels 0 to 16 are scaled to 0 to 255.

    Raises:
        MissingRequirement: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as exc:
        raise MissingRequirement(
            "the digits come from scikit-learn: pip install scikit-learn"
        ) from exc
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    return Dataset(pixels[~test], labels[~test], pixels[test], labels[test], tuple("0123456789"))


def fashion_mnist(folder: Path = FASHION_DATA) -> Dataset:
    """Fashion-MNIST's 60,000 training and 10,000 test images of 28x28 pixels.

    Raises:
        MissingRequirement: ``folder`` lacks the IDX files.
        BadInput: a file is not IDX.
    """

    def read(name: str, header: int) -> NDArray[np.uint8]:
        path = folder / name
        if not path.is_file():
            raise MissingRequirement(
                f"no {name} in {folder}: apt-get install dataset-fashion-mnist (Debian, Ubuntu)"
            )
        try:
            raw = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as exc:
            raise BadInput(f"cannot read {path}: {exc}") from exc
        if int.from_bytes(raw[:4], "big") not in (0x801, 0x803):
            raise BadInput(f"{path} is not an IDX file")
        return np.frombuffer(raw, np.uint8, offset=header)

    def split(prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images = read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
        return images, read(f"{prefix}-labels-idx1-ubyte.gz", 8).astype(np.int64)

    return Dataset(*split("train"), *split("t10k"), FASHION_CLASSES)


#: Data sets by name.
DATASETS: Mapping[str, Callable[[], Dataset]] = {
    "digits": digits,
    "fashion-mnist": lambda: fashion_mnist(FASHION_DATA),
}
