"""Train the shipped checkpoints: ``python -m resnext.weights.shipped.train digits|fashion-mnist
[--output FILE]``.

Deterministic: seeded, and on one thread, so the same PyTorch on the same processor family gives the
same bytes. digits needs scikit-learn. fashion-mnist reads the four IDX files of Debian's package
dataset-fashion-mnist (MIT license, Zalando SE), or of any other copy, from --data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from resnext.images.datasets import FASHION_DATA, Dataset, digits, fashion_mnist
from resnext.images.preprocessing import Preprocessing
from resnext.network.config import ResNeXtConfig
from resnext.network.model import ResNeXt
from resnext.progress import track
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import Weights, load_model

from . import SHIPPED


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is trained: SGD with momentum, one-cycle learning rate, small shifts."""

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
    return Preprocessing(
        resize=min(config.input_size), crop=config.input_size, mean=mean, std=std, color="L"
    )


def train(config: ResNeXtConfig, data: Dataset, recipe: Recipe, seed: int = 0) -> Weights:
    """Train from scratch on one thread; prints nothing, shows progress on a terminal."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        preprocessing = declared_preprocessing(data, config)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ResNeXt(config).train()
        images = torch.from_numpy(preprocessing.normalize(data.train_images))
        labels = torch.from_numpy(data.train_labels)
        steps = len(labels) // recipe.batch
        optimizer = torch.optim.SGD(
            model.parameters(), recipe.peak_lr, 0.9, weight_decay=5e-4, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.peak_lr, total_steps=steps * recipe.epochs
        )
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
        return Weights(
            config, model.eval().state_dict(), "trained here", preprocessing, data.class_names
        )
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
    model = load_model(weights)
    hits = 0
    for start in range(0, len(labels), 500):
        batch = torch.from_numpy(weights.preprocessing.normalize(images[start : start + 500]))
        hits += int((model(batch).argmax(1).numpy() == labels[start : start + 500]).sum())
    return hits / len(labels)


def write_samples(data: Dataset, folder: Path) -> None:
    """Write the first test image of each class as a PNG named ``<index>_<class>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(data.class_names):
        first = int(np.flatnonzero(data.test_labels == index)[0])
        slug = name.lower().replace("/", "-").replace(" ", "-")
        Image.fromarray(data.test_images[first, :, :, 0]).save(folder / f"{index}_{slug}.png")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write (default: the shipped file itself).",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=FASHION_DATA,
    help="Fashion-MNIST's IDX files.",
)
def main(name: str, output: Path | None, data: Path) -> None:
    """Train a shipped checkpoint again, and say its test accuracy and digest."""
    shipped = SHIPPED[name]
    dataset = digits() if name == "digits" else fashion_mnist(data)
    weights = train(shipped.config, dataset, RECIPES[name])
    save_weights(weights, output or shipped.path)
    if output is None:
        write_samples(dataset, shipped.images)
    score = accuracy(weights, dataset.test_images, dataset.test_labels)
    click.echo(
        f"{output or shipped.path}: top-1 {score:.4f} on {len(dataset.test_labels)} test images"
    )
    click.echo(f"weights sha256 {weights.sha256}")


if __name__ == "__main__":
    main()
