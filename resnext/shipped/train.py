"""Train the shipped checkpoints: ``python -m resnext.shipped.train digits|fashion-mnist [--output FILE]``.

Deterministic: seeded, and on one thread, so the same PyTorch on the same processor family gives the same bytes.
digits needs scikit-learn. fashion-mnist reads the four IDX files of Debian's package dataset-fashion-mnist (MIT
licence, Zalando SE), or of any other copy, from --data.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..config import ResNeXtConfig
from ..errors import BadInput, MissingRequirement
from ..model import ResNeXt
from ..preprocess import Preprocessing
from ..weights import Weights, save_weights
from . import SHIPPED

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION_DATA = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Dataset:
    """Images as uint8 pixels (N x H x W x 1) and their labels (N, int64), split into training and test."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, grey levels 0 to 16 scaled to 0 to 255; every fifth is test.

    Raises:
        MissingRequirement: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as exc:
        raise MissingRequirement("the digits come from scikit-learn: pip install scikit-learn") from exc
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
                f"no {name} in {folder}: apt-get install dataset-fashion-mnist, or name the folder with --data"
            )
        raw = gzip.decompress(path.read_bytes())
        if int.from_bytes(raw[:4], "big") not in (0x801, 0x803):
            raise BadInput(f"{path} is not an IDX file")
        return np.frombuffer(raw, np.uint8, offset=header)

    def split(prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images = read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
        return images, read(f"{prefix}-labels-idx1-ubyte.gz", 8).astype(np.int64)

    return Dataset(*split("train"), *split("t10k"), FASHION_CLASSES)


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is trained: SGD with momentum, one-cycle learning rate, small shifts as augmentation."""

    epochs: int
    batch: int
    peak_lr: float
    shift: int
    mirror: bool


RECIPES = {
    "digits": Recipe(epochs=8, batch=64, peak_lr=0.1, shift=1, mirror=False),
    "fashion-mnist": Recipe(epochs=5, batch=128, peak_lr=0.15, shift=1, mirror=True),
}


def declared_preprocessing(data: Dataset, config: ResNeXtConfig) -> Preprocessing:
    """Mean and standard deviation of the training pixels, rounded to three decimals."""
    scaled = data.train_images.astype(np.float64) / 255
    mean, std = (round(float(scaled.mean()), 3),), (round(float(scaled.std()), 3),)
    return Preprocessing(resize=min(config.input_size), crop=config.input_size, mean=mean, std=std, color="L")


def train(config: ResNeXtConfig, data: Dataset, recipe: Recipe, seed: int = 0) -> Weights:
    """Train from scratch on one thread; prints nothing, shows progress on a terminal."""
    from ..progress import track

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        preprocessing = declared_preprocessing(data, config)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ResNeXt(config).train()
        images = torch.from_numpy(preprocessing.normalise(data.train_images))
        labels = torch.from_numpy(data.train_labels)
        steps = len(labels) // recipe.batch
        optimizer = torch.optim.SGD(model.parameters(), recipe.peak_lr, 0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, total_steps=steps * recipe.epochs)
        for _ in track(range(recipe.epochs), "training epochs"):
            order = torch.randperm(len(labels), generator=generator)
            for step in range(steps):
                chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
                batch = _augment(images[chosen], recipe, generator)
                loss = F.cross_entropy(model(batch), labels[chosen], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
                schedule.step()
        return Weights(config, model.eval().state_dict(), "trained here", preprocessing, data.class_names)
    finally:
        torch.set_num_threads(threads)


def _augment(images: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    # One shift and one mirroring for each batch: cheap, and enough for nets this small.
    down, right, flip = torch.randint(0, 2 * recipe.shift + 1, (3,), generator=generator).tolist()
    height, width = images.shape[2:]
    padded = F.pad(images, [recipe.shift] * 4, value=float(images.min()))
    images = padded[:, :, down : down + height, right : right + width]
    return images.flip(3) if recipe.mirror and flip == 0 else images


def accuracy(weights: Weights, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Top-1 accuracy (0 to 1) of ``weights`` on uint8 pixels."""
    from ..weights import load_model

    model = load_model(weights)
    hits = 0
    for start in range(0, len(labels), 500):
        batch = torch.from_numpy(weights.preprocessing.normalise(images[start : start + 500]))
        hits += int((model(batch).argmax(1).numpy() == labels[start : start + 500]).sum())
    return hits / len(labels)


def write_samples(data: Dataset, folder: Path) -> None:
    """Write the first test image of each class as a PNG named ``<index>_<class>.png``."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(data.class_names):
        first = int(np.flatnonzero(data.test_labels == index)[0])
        slug = name.lower().replace("/", "-").replace(" ", "-")
        Image.fromarray(data.test_images[first, :, :, 0]).save(folder / f"{index}_{slug}.png")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.option("--output", type=click.Path(path_type=Path), help="Where to write (default: the shipped file itself).")
@click.option("--data", type=click.Path(path_type=Path), default=FASHION_DATA, help="Fashion-MNIST's IDX files.")
def main(name: str, output: Path | None, data: Path) -> None:
    """Train a shipped checkpoint again, and say its test accuracy and digest."""
    shipped = SHIPPED[name]
    dataset = digits() if name == "digits" else fashion_mnist(data)
    weights = train(shipped.config, dataset, RECIPES[name])
    save_weights(weights, output or shipped.path)
    if output is None:
        write_samples(dataset, shipped.images)
    score = accuracy(weights, dataset.test_images, dataset.test_labels)
    click.echo(f"{output or shipped.path}: top-1 {score:.4f} on {len(dataset.test_labels)} test images")
    click.echo(f"weights sha256 {weights.sha256}")


if __name__ == "__main__":
    main()
