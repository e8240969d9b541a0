"""Images to calibrate on and to measure accuracy on, by name or from a folder.

A SPEC is one of::

    digits           scikit-learn's digits; every fifth is test, as the shipped weights were trained
    fashion-mnist    Debian's package dataset-fashion-mnist (MIT license, Zalando SE):
                     60,000 and 10,000 images
    random           seeded noise, without labels
    FOLDER           one folder for each class, as ImageNet has them, or such folders under
                     train/ and val/; or pictures alone, without labels, for calibration
    SHARDS           tar or Parquet files with labels (`resnext.images.shards`): one file, or a
                     folder of them
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import Image

from resnext.errors import BadInput, UsageError
from resnext.readers.files import MOST_PICTURE, check_utf8, is_folder, open_file, read_all

from .datasets import DATASETS, Dataset
from .pictures import opened, opened_bytes
from .preprocessing import Preprocessing
from .shards.find import find_shards, holds_shards
from .shards.folder import SUFFIXES
from .shards.labels import classes_of
from .shards.shard import Picture, Shard

Split = Literal["calibration", "test"]

#: Number of ``random`` images without a limit.
_RANDOM_IMAGES = 512
#: Up to this many files are digested by their bytes; more by names and sizes.
_MOST_HASHED = 1000
_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A selection of images from one source, read on demand.

    Attributes:
        name: human-readable source and split.
        digest: sha256 of the source data in order: the data set's pixels, or the files' names and
            bytes (names and sizes if there are more than 1,000 files). The location of a folder
            and its labels do not matter.
        labels: N, int64, read-only: index of each image's class; None for unlabeled images.
        class_names: names of the classes, by index; empty for unlabeled images.
        preprocessing: how images become pixels.
    """

    name: str
    digest: str
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    _chosen: NDArray[np.int64] = field(repr=False)
    _read: Callable[[int], NDArray[np.uint8]] = field(repr=False)

    def __len__(self) -> int:
        return len(self._chosen)

    def pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Images ``start`` to ``stop`` (not included) as the network's uint8 pixels, N x H x W x C;
        the caller's own.

        Raises:
            UsageError: there are no such images.
            BadInput: a picture cannot be read; names the first such file.
        """
        if not 0 <= start < stop <= len(self):
            raise UsageError(f"no images {start} to {stop} in {self.name}, which has {len(self)}")
        # `Preprocessing.load` sets this filter and restores the previous one. Threads would restore
        # each other's, so it is set around all of them: no picture is read without it, and it does
        # not stay behind.
        with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            return np.concatenate(list(pool.map(self._read, self._chosen[start:stop].tolist())))


def image_source(
    spec: str,
    preprocessing: Preprocessing,
    *,
    split: Split,
    limit: int | None = None,
    seed: int = 0,
    classes: int | None = None,
    class_names: tuple[str, ...] = (),
) -> ImageSource:
    """The images that ``spec`` names.

    Args:
        spec: see the module's docstring; write ``./digits`` for a folder named like a data set.
        preprocessing: of the network that will see the images.
        split: ``calibration`` (the training images) or ``test`` (the held-out ones).
        limit: size of a seeded sample, balanced over the classes; a larger sample contains the
            smaller. None means all images.
        seed: seed of the sample, and of ``random`` noise.
        classes: number of logits. Labels that do not fit are an error; None leaves labels alone.
        class_names: names of the network's classes; labels are matched by name if there are any.
            Leave both out for calibration, which takes any pictures.

    Raises:
        UsageError: ``limit`` or ``seed`` is too small.
        MissingRequirement: scikit-learn, or the package with Fashion-MNIST, is not installed.
        BadInput: no such folder, no picture in it, an unreadable one, a colored one for a
            network that takes gray, fewer than ``limit``, no labels to test with, or classes that
            are not the network's.
    """
    if seed < 0 or (limit is not None and limit < 1):
        raise UsageError(f"limit must be at least 1 and seed at least 0, got {limit} and {seed}")
    candidates = _candidates(spec, preprocessing, split, limit, seed)
    labels, names = candidates.labels, candidates.class_names
    if labels is not None and (classes is not None or class_names):
        labels, names = _in_network_order(spec, labels, names, classes, class_names)
    chosen = (
        np.arange(candidates.count) if limit is None else _sample(spec, candidates, limit, seed)
    )
    if labels is not None:
        labels = labels[chosen]
        labels.setflags(write=False)
    name = spec if spec in DATASETS or spec == "random" else Path(spec).resolve().name
    source = ImageSource(
        f"{name} {split}",
        candidates.digest(chosen),
        labels,
        names,
        preprocessing,
        _chosen=chosen,
        _read=candidates.read,
    )
    source.pixels(0, 1)  # refuse unusable pictures now, not after an hour of other work
    return source


@dataclass(frozen=True)
class _Candidates:
    """All images of a spec; ``read`` returns 1 x H x W x C, ``digest`` covers the given indices."""

    count: int
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    read: Callable[[int], NDArray[np.uint8]]
    digest: Callable[[NDArray[np.int64]], str]


def _candidates(
    spec: str, preprocessing: Preprocessing, split: Split, limit: int | None, seed: int
) -> _Candidates:
    if spec in DATASETS:
        return _from_dataset(DATASETS[spec](), preprocessing, split)
    if spec == "random":
        shape = (1, *preprocessing.crop, len(preprocessing.mean))

        def noise(index: int) -> NDArray[np.uint8]:
            return np.random.Generator(np.random.PCG64([seed, index])).integers(
                0, 256, shape, np.uint8
            )

        return _Candidates(
            limit or _RANDOM_IMAGES,
            None,
            (),
            noise,
            lambda chosen: _sha256(noise(int(i)) for i in chosen),
        )
    return _from_folder(Path(spec), preprocessing, split)


def _from_dataset(data: Dataset, preprocessing: Preprocessing, split: Split) -> _Candidates:
    images, labels = (
        (data.test_images, data.test_labels)
        if split == "test"
        else (data.train_images, data.train_labels)
    )

    def read(index: int) -> NDArray[np.uint8]:
        return preprocessing.to_pixels(Image.fromarray(images[index, :, :, 0]))[np.newaxis]

    return _Candidates(
        len(images), labels, data.class_names, read, lambda chosen: _sha256([images[chosen]])
    )


def _from_folder(folder: Path, preprocessing: Preprocessing, split: Split) -> _Candidates:
    if holds_shards(folder):
        return _from_shards(folder, preprocessing, split)
    if not is_folder(folder):
        known = ", ".join(DATASETS)
        if split == "test":
            hint = (
                f"set `accuracy` to {known}, or a folder with one subfolder for each class, or with"
                " tar or Parquet files"
            )
        else:
            hint = (
                f"set `calibration` to {known}, random, or a folder of pictures or of tar or"
                " Parquet files"
            )
        raise BadInput(f"no folder at {folder}", hint=hint)
    entries = _entries(folder)
    inner = {entry.name: entry for entry in entries if entry.is_dir()}
    for name in inner:  # the names of classes, which reports hold
        check_utf8(name, f"the name of a folder in {folder}")
    if inner.keys() >= {"train", "val"}:
        return _from_folder(
            inner["train" if split == "calibration" else "val"], preprocessing, split
        )
    if inner and _pictures(entries):
        raise BadInput(
            f"{folder} holds both pictures and folders; give one folder for each class, or pictures"
            " alone"
        )
    groups = {name: _pictures(_entries(path)) for name, path in inner.items()} or {
        "": _pictures(entries)
    }
    for name, pictures in groups.items():
        if not pictures:
            raise BadInput(_no_picture(folder / name, split))
    if not inner and split == "test":
        raise BadInput(
            f"{folder} holds pictures without labels, which can calibrate but not test; "
            "put them into one folder for each class"
        )
    labels = np.repeat(
        np.arange(len(groups), dtype=np.int64), [len(pictures) for pictures in groups.values()]
    )
    paths = [path for pictures in groups.values() for path in pictures]

    def read(index: int) -> NDArray[np.uint8]:
        with opened(paths[index]) as image:
            return _pixels(image, preprocessing)

    def digest(chosen: NDArray[np.int64]) -> str:
        return _files_sha256([paths[index] for index in chosen.tolist()], folder)

    return _Candidates(len(paths), labels if inner else None, tuple(inner), read, digest)


def _from_shards(path: Path, preprocessing: Preprocessing, split: Split) -> _Candidates:
    shards = find_shards(path)
    pictures = [picture for shard in shards for picture in shard.pictures()]
    if not pictures:
        raise BadInput(f"there is no picture in {path}")
    labels, names = classes_of(path, shards, pictures)
    if labels is None and split == "test":
        raise BadInput(
            f"{path} holds pictures without labels, which can calibrate but not test; "
            "give each a label"
        )

    def read(index: int) -> NDArray[np.uint8]:
        picture = pictures[index]
        with opened_bytes(picture.load(), f"{picture.key} in {path}") as image:
            return _pixels(image, preprocessing)

    def digest(chosen: NDArray[np.int64]) -> str:
        return _pictures_sha256([pictures[index] for index in chosen.tolist()], shards)

    return _Candidates(len(pictures), labels, names, read, digest)


def _pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Pixels of a picture, 1 x H x W x C.

    Raises:
        BadInput: it is colored, and the network takes gray: converted, it would be unlike the
            training images.
    """
    pixels = preprocessing.to_pixels(image)
    if preprocessing.color == "L" and _is_colored(image):
        raise BadInput(
            "it is colored, and the network takes one gray channel; convert the pictures to gray"
        )
    return pixels[np.newaxis]


def _entries(folder: Path) -> list[Path]:
    """Entries of ``folder``, sorted by name, without hidden files."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as exc:
        raise BadInput(f"cannot read the folder {folder}: {exc.strerror}") from exc


def _pictures(entries: list[Path]) -> list[Path]:
    return [path for path in entries if path.suffix.lower() in SUFFIXES and not path.is_dir()]


def _no_picture(folder: Path, split: Split) -> str:
    entries = _entries(folder)
    if not entries:
        return f"the folder {folder} is empty; put pictures into it ({' '.join(SUFFIXES)})"
    if folder.name in ("train", "val", "test") and entries[0].is_dir():
        return (
            f"there is no train/ beside a val/ in {folder.parent}; for {split} give {folder} itself"
        )
    return (
        f"no readable picture in {folder}: its first file, {entries[0].name}, is none of"
        f" {' '.join(SUFFIXES)}"
    )


def _is_colored(image: Image.Image) -> bool:
    if image.mode in _GRAY_MODES:
        return False
    red, green, blue = image.convert("RGB").split()
    return not red.tobytes() == green.tobytes() == blue.tobytes()


def _sample(spec: str, candidates: _Candidates, limit: int, seed: int) -> NDArray[np.int64]:
    """``limit`` ascending indices: classes take turns, each in seeded order, while images last."""
    if limit > candidates.count:
        raise BadInput(
            f"{spec} has {candidates.count} images and {limit} were asked for",
            hint=f"ask for {candidates.count} at most",
        )
    labels = candidates.labels
    if labels is None:
        labels = np.zeros(candidates.count, np.int64)
    draw = np.random.Generator(np.random.PCG64(seed)).random(candidates.count)
    by_class = np.lexsort((draw, labels))
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(candidates.count) - np.repeat(first, sizes)
    chosen: NDArray[np.int64] = np.sort(by_class[np.lexsort((draw[by_class], turn))][:limit])
    return chosen


def _in_network_order(
    spec: str,
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    classes: int | None,
    network_names: tuple[str, ...],
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and class names in the network's order, matched by name if it names its classes."""
    if not names:  # numbers alone are the network's own
        most = len(network_names) or classes or 0
        if labels.max() >= most:
            raise BadInput(f"{spec} has a label {labels.max()}, and the network {most} classes")
        return labels, network_names
    if not network_names:
        if len(names) != classes:
            raise BadInput(
                f"{spec} has {len(names)} classes and the network {classes} without names, so which"
                " class is which is unknown; give one folder for each class of the network"
            )
        return labels, names
    have, want = [_plain(name) for name in names], [_plain(name) for name in network_names]
    if sorted(have) != sorted(want) or len(set(want)) != len(want):
        odd = [name for name in names if _plain(name) not in want]
        lacking = [name for name in network_names if _plain(name) not in have]
        parts = [
            f"{what} {some[0]!r}"
            for what, some in (("not known", odd), ("missing", lacking))
            if some
        ]
        raise BadInput(
            f"the {len(names)} classes of {spec} are not the network's {len(network_names)} by name"
            f" ({', '.join(parts) or 'some share a name'}); name the folders as the network names"
            " its classes"
        )
    place: NDArray[np.int64] = np.array([want.index(name) for name in have], np.int64)
    return place[labels], network_names


def _plain(name: str) -> str:
    """A class name as a folder can spell it: lower case, without slashes and spaces."""
    return re.sub(r"[\s/\\_-]+", "-", name.strip().lower())


def _files_sha256(paths: list[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open_file(path, MOST_PICTURE) as file:
            if len(paths) <= _MOST_HASHED:
                content = read_all(file, path)
            else:
                content = str(os.fstat(file.fileno()).st_size).encode()
        digest.update(os.fsencode(f"{path.relative_to(root).as_posix()}\n"))
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _pictures_sha256(pictures: list[Picture], shards: tuple[Shard, ...]) -> str:
    digest = hashlib.sha256()
    whole = len(pictures) <= _MOST_HASHED
    if not whole and pictures[0].size is None:  # what is known of them is what their files say
        for shard in shards:
            digest.update("\n".join(shard.listing()).encode())
    for picture in pictures:
        content = picture.load() if whole else str(picture.size).encode()
        digest.update(f"{picture.key}\n".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _sha256(arrays: Iterable[NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
