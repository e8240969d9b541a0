"""Images by name or from a folder: the right ones, in the right order, with labels that mean what
the network means.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import pytest

import resnext.images.datasets
import resnext.images.sources as module
from resnext.errors import BadInput, MissingRequirement, UsageError
from resnext.images.datasets import FASHION_DATA, digits
from resnext.images.preprocessing import Preprocessing
from resnext.images.sources import Split, image_source

GRAY = Preprocessing(resize=8, crop=(8, 8), mean=(0.5,), std=(0.5,), color="L")
COLOR = Preprocessing(resize=8, crop=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
PETS = ("ant", "bee", "cat")


def picture(path: Path, value: int, colored: bool = False) -> Path:
    """An 8x8 picture all of one gray level, or of three different ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 8), value, np.uint8)
    PIL.Image.fromarray(np.dstack([pixels, pixels, pixels // 2]) if colored else pixels).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three classes of two, four and six pictures; a gray level of 10 x class + number."""
    for label, name in enumerate(PETS):
        for number in range(2 * (label + 1)):
            picture(tmp_path / "pets" / name / f"{number}.png", 10 * label + number)
    return tmp_path / "pets"


def levels(
    spec: Path | str, split: Split = "test", limit: int | None = None, seed: int = 0
) -> list[int]:
    source = image_source(str(spec), GRAY, split=split, limit=limit, seed=seed)
    return [int(level) for level in source.pixels(0, len(source))[:, 0, 0, 0]]


# ---- data sets


def test_the_digits_are_those_that_training_held_out() -> None:
    data = digits()
    test = image_source("digits", GRAY, split="test")
    calibration = image_source("digits", GRAY, split="calibration")
    assert (len(test), len(calibration)) == (359, 1438)
    np.testing.assert_array_equal(test.pixels(0, 359), data.test_images)
    np.testing.assert_array_equal(calibration.pixels(0, 1438), data.train_images)
    assert test.labels is not None
    assert calibration.labels is not None
    np.testing.assert_array_equal(test.labels, data.test_labels)
    np.testing.assert_array_equal(calibration.labels, data.train_labels)
    assert (test.class_names, test.name) == (tuple("0123456789"), "digits test")


def test_images_of_a_data_set_are_made_to_fit_the_network() -> None:
    large = COLOR.model_copy(update={"resize": 20, "crop": (16, 12)})
    assert image_source("digits", large, split="test").pixels(3, 5).shape == (2, 16, 12, 3)


@pytest.mark.skipif(
    not FASHION_DATA.is_dir(), reason="needs the Debian package dataset-fashion-mnist"
)
@pytest.mark.parametrize(("split", "count"), [("test", 10_000), ("calibration", 60_000)])
def test_fashion_mnist_has_its_two_splits(split: Split, count: int) -> None:
    preprocessing = GRAY.model_copy(update={"resize": 28, "crop": (28, 28)})
    source = image_source("fashion-mnist", preprocessing, split=split)
    assert len(source) == count
    assert source.labels is not None
    assert np.bincount(source.labels).tolist() == [count // 10] * 10
    assert source.pixels(count - 1, count).shape == (1, 28, 28, 1)


def test_without_fashion_mnist_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resnext.images.datasets, "FASHION_DATA", tmp_path)
    with pytest.raises(MissingRequirement, match="apt-get install dataset-fashion-mnist"):
        image_source("fashion-mnist", GRAY, split="test")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"cut short")
    with pytest.raises(BadInput, match=r"cannot read .*train-images"):
        image_source("fashion-mnist", GRAY, split="test")


def test_without_scikit_learn_the_way_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingRequirement, match="pip install scikit-learn"):
        image_source("digits", GRAY, split="test")


def test_noise_depends_on_its_seed_and_on_nothing_else() -> None:
    source = image_source("random", COLOR, split="calibration", limit=9, seed=1)
    assert (len(source), source.labels) == (9, None)
    whole = source.pixels(0, 9)
    assert whole.shape == (9, 8, 8, 3)
    np.testing.assert_array_equal(source.pixels(4, 6), whole[4:6])
    assert len(np.unique(whole, axis=0)) == 9
    again = image_source("random", COLOR, split="calibration", limit=9, seed=1)
    other = image_source("random", COLOR, split="calibration", limit=9, seed=2)
    assert again.digest == source.digest != other.digest
    assert not np.array_equal(other.pixels(0, 9), whole)


# ---- folders


def test_a_folder_for_each_class_gives_labels_by_sorted_name(pets: Path) -> None:
    picture(pets / ".thumbnails" / "0.png", 99)
    (pets / "README.txt").write_text("not a picture")
    (pets / "cat" / "notes.txt").write_text("not a picture")
    source = image_source(str(pets), GRAY, split="test")
    assert source.labels is not None
    assert source.labels.tolist() == [0] * 2 + [1] * 4 + [2] * 6
    assert (source.class_names, source.name) == (PETS, "pets test")
    assert levels(pets) == [0, 1, 10, 11, 12, 13, 20, 21, 22, 23, 24, 25]


def test_train_and_val_are_chosen_by_split(tmp_path: Path) -> None:
    for part, level in (("train", 50), ("val", 60)):
        picture(tmp_path / part / "ant" / "a.png", level)
    assert levels(tmp_path, "calibration") == [50]
    assert levels(tmp_path, "test") == [60]


def test_a_flat_folder_calibrates_and_has_no_labels_to_test_with(tmp_path: Path) -> None:
    picture(tmp_path / "b.PNG", 2)
    picture(tmp_path / "a.bmp", 1)
    assert levels(tmp_path, "calibration") == [1, 2]
    assert image_source(str(tmp_path), GRAY, split="calibration").labels is None
    with pytest.raises(BadInput, match="without labels, which can calibrate but not test"):
        image_source(str(tmp_path), GRAY, split="test")


def empty(folder: Path) -> None:
    folder.mkdir()


def only_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "zebra.doc").touch()
    (folder / "answers.csv").touch()


def no_pictures_inside(folder: Path) -> None:
    for name in ("bad-2.jpg", "bad-1.jpg"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no picture")


def one_class_empty(folder: Path) -> None:
    picture(folder / "ant" / "a.png", 1)
    (folder / "bee").mkdir()


def mixed(folder: Path) -> None:
    picture(folder / "ant" / "a.png", 1)
    picture(folder / "b.png", 1)


def val_alone(folder: Path) -> None:
    picture(folder / "val" / "ant" / "a.png", 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda _: None,
            "no folder at .*; set `calibration` to digits, fashion-mnist, random, or a folder",
        ),
        (lambda folder: folder.touch(), "no folder at"),
        (empty, "is empty"),
        (only_text, r"no readable picture in .*: its first file, answers\.csv"),
        (no_pictures_inside, r"bad-1\.jpg is not an image"),
        (one_class_empty, "bee is empty"),
        (mixed, "both pictures and folders"),
        (val_alone, r"no train/ beside a val/ in .*give .*val itself"),
    ],
    ids=["absent", "a file", "empty", "no picture", "broken", "empty class", "mixed", "val alone"],
)
def test_a_folder_that_cannot_serve_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "folder")
    with pytest.raises(BadInput, match=message) as caught:
        image_source(str(tmp_path / "folder"), GRAY, split="calibration")
    assert "\n" not in str(caught.value)


def test_a_broken_picture_in_the_middle_is_named(pets: Path) -> None:
    (pets / "bee" / "2.png").write_bytes((pets / "bee" / "2.png").read_bytes()[:50])
    (pets / "cat" / "1.png").write_bytes(b"broken as well")
    source = image_source(str(pets), GRAY, split="test")
    assert len(source.pixels(0, 4)) == 4
    with pytest.raises(BadInput, match=r"bee.2\.png"):
        source.pixels(0, 12)


def test_a_colored_picture_is_refused_where_the_network_takes_gray(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 100, colored=True)
    assert image_source(str(tmp_path), COLOR, split="calibration").pixels(0, 1).shape == (
        1,
        8,
        8,
        3,
    )
    with pytest.raises(
        BadInput, match=r"a\.png: it is colored, and the network takes one gray channel"
    ):
        image_source(str(tmp_path), GRAY, split="calibration")


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "LA", "1", "RGBA"])
def test_a_gray_picture_is_taken_in_whatever_mode_it_was_saved(tmp_path: Path, mode: str) -> None:
    PIL.Image.fromarray(np.full((8, 8), 255, np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert levels(tmp_path, "calibration") == [255]


def test_sixteen_bit_gray_is_gray(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full((8, 8), 257 * 7, np.uint16)).save(tmp_path / "a.png")
    assert levels(tmp_path, "calibration") == [7]


def test_images_that_are_not_there_are_a_usage_error(pets: Path) -> None:
    source = image_source(str(pets), GRAY, split="test")
    for start, stop in ((0, 13), (-1, 2), (3, 3)):
        with pytest.raises(UsageError, match="which has 12"):
            source.pixels(start, stop)


# ---- decoding on many threads


def test_pictures_keep_their_order_on_many_threads(tmp_path: Path) -> None:
    expected = [int(level) for level in np.random.default_rng(0).integers(0, 256, 60)]
    for number, level in enumerate(expected):
        # Sizes of all kinds, so that a later picture is often ready first.
        size = 8 * (1 + (number * 37) % 40)
        PIL.Image.new("L", (size, size), level).save(tmp_path / f"{number:03d}.png")
    assert levels(tmp_path, "calibration") == expected


def test_a_bomb_is_refused_whatever_another_thread_does_to_the_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png", 1)
    PIL.Image.new("L", (64, 64)).save(tmp_path / "b.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 3000)
    source = image_source(str(tmp_path), GRAY, split="calibration")
    started = {"a.png": threading.Event(), "b.png": threading.Event()}
    real = PIL.Image.open

    def taking_turns(file: BinaryIO, **settings: Any) -> Any:
        # The first picture is done, and its filters are put back, while the bomb has been begun and
        # is not yet open.
        name = Path(file.name).name
        started[name].set()
        if name == "a.png":
            started["b.png"].wait(1)
        else:
            started["a.png"].wait(1)
            time.sleep(0.1)
        return real(file, **settings)

    monkeypatch.setattr(PIL.Image, "open", taking_turns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = list(warnings.filters)
        for _ in range(3):  # mostly the first picture is also begun first, which the fault needs
            with pytest.raises(BadInput, match=r"cannot read the image .*b\.png"):
                source.pixels(0, 2)
            started["a.png"].clear()
            started["b.png"].clear()
        assert warnings.filters == before


# ---- samples


def test_a_limit_takes_as_many_of_each_class(pets: Path) -> None:
    def counts(limit: int, seed: int = 0) -> list[int]:
        labels = image_source(str(pets), GRAY, split="test", limit=limit, seed=seed).labels
        assert labels is not None
        return [int((labels == label).sum()) for label in range(3)]

    assert counts(6) == [2, 2, 2]
    assert counts(9) in ([2, 4, 3], [2, 3, 4])
    assert counts(12) == [2, 4, 6]
    assert all(max(counts(4, seed)) == 2 and min(counts(4, seed)) == 1 for seed in range(5))


def test_a_sample_hangs_on_its_seed_and_holds_the_smaller_ones(pets: Path) -> None:
    assert levels(pets, limit=5) == levels(pets, limit=5)
    assert len({tuple(levels(pets, limit=5, seed=seed)) for seed in range(8)}) > 3
    for limit in range(1, 12):
        assert set(levels(pets, limit=limit)) < set(levels(pets, limit=limit + 1))


def test_labels_stay_with_their_images_in_a_sample(pets: Path) -> None:
    source = image_source(str(pets), GRAY, split="test", limit=7, seed=3)
    assert source.labels is not None
    np.testing.assert_array_equal(source.pixels(0, 7)[:, 0, 0, 0] // 10, source.labels)


@pytest.mark.parametrize("spec", ["digits", "folder"])
def test_fewer_images_than_asked_for_is_an_error_that_counts_them(spec: str, pets: Path) -> None:
    count = 359 if spec == "digits" else 12
    with pytest.raises(BadInput, match=f"has {count} images and 5000 were asked for"):
        image_source("digits" if spec == "digits" else str(pets), GRAY, split="test", limit=5000)


@pytest.mark.parametrize(("limit", "seed"), [(0, 0), (-1, 0), (5, -1)])
def test_a_limit_or_seed_that_is_too_small_is_a_usage_error(limit: int, seed: int) -> None:
    with pytest.raises(UsageError, match="at least"):
        image_source("digits", GRAY, split="test", limit=limit, seed=seed)


# ---- classes


def test_labels_go_by_name_where_the_network_names_its_classes(pets: Path) -> None:
    (pets / "cat").rename(pets / "T-shirt top")
    source = image_source(
        str(pets), GRAY, split="test", classes=3, class_names=("T-Shirt/top", "bee", "ant")
    )
    assert source.labels is not None
    names = [source.class_names[label] for label in source.labels]
    assert names == ["T-Shirt/top"] * 6 + ["ant"] * 2 + ["bee"] * 4  # the order of the folders
    np.testing.assert_array_equal(source.pixels(0, 12)[::6, 0, 0, 0], [20, 0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ant", "bee", "dog"), "not known 'cat', missing 'dog'"),
        (("ant", "bee", "cat", "dog"), "are not the network's 4 by name .missing 'dog'"),
        (("ant", "bee"), "not known 'cat'"),
        (("ant", "ant", "bee"), "not known 'cat'"),
    ],
)
def test_classes_of_other_names_are_refused(
    pets: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        image_source(str(pets), GRAY, split="test", class_names=names)


def test_names_that_two_classes_share_are_refused(tmp_path: Path) -> None:
    for name in ("crane", "Crane"):
        picture(tmp_path / name / "a.png", 1)
    with pytest.raises(BadInput, match="some share a name"):
        image_source(str(tmp_path), GRAY, split="test", class_names=("crane", "CRANE"))


@pytest.mark.parametrize("classes", [2, 4, 1000])
def test_labels_that_are_not_the_networks_classes_are_refused(pets: Path, classes: int) -> None:
    with pytest.raises(BadInput, match=f"has 3 classes and the network {classes} without names"):
        image_source(str(pets), GRAY, split="test", classes=classes)
    assert len(image_source(str(pets), GRAY, split="test", classes=3)) == 12


# ---- digests


def rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change bytes of a file, and leave its size and times as they were."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


def flip_last_bit(content: bytearray) -> None:
    content[-1] ^= 1


def test_the_digest_is_over_the_bytes_of_the_files(pets: Path, tmp_path: Path) -> None:
    def digest(folder: Path = pets) -> str:
        return image_source(str(folder), GRAY, split="test").digest

    first = digest()
    rewrite(pets / "cat" / "5.png", flip_last_bit)
    assert digest() != first
    rewrite(pets / "cat" / "5.png", flip_last_bit)
    pets.rename(tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere") == first
    (tmp_path / "elsewhere" / "cat" / "5.png").rename(tmp_path / "elsewhere" / "cat" / "6.png")
    assert digest(tmp_path / "elsewhere") != first


def test_of_very_many_files_the_digest_is_over_names_and_sizes(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HASHED", 11)

    def digest() -> str:
        return image_source(str(pets), GRAY, split="test").digest

    first = digest()
    rewrite(pets / "cat" / "5.png", flip_last_bit)
    assert digest() == first
    (pets / "cat" / "5.png").write_bytes((pets / "cat" / "5.png").read_bytes() + b"x")
    assert digest() != first


def test_another_sample_or_split_has_another_digest() -> None:
    choices: list[tuple[Split, int | None, int]] = [
        ("test", None, 0),
        ("calibration", None, 0),
        ("test", 50, 0),
        ("test", 50, 1),
    ]
    digests = {
        image_source("digits", GRAY, split=part, limit=limit, seed=seed).digest
        for part, limit, seed in choices
    }
    assert len(digests) == 4


def test_labels_cannot_be_changed_by_a_reader() -> None:
    labels = image_source("digits", GRAY, split="test").labels
    assert labels is not None
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 3
