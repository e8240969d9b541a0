"""Folders, tar files and Parquet as shards: what is in them, what is refused, what is noticed."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fakes.shelves import folder_of, levels, png, tar_of
from resnext.errors import BadInput
from resnext.images.preprocessing import default_preprocessing
from resnext.images.shards import folder, parquet
from resnext.images.shards.find import find_shards
from resnext.images.shards.shard import Picture, Shard, shard_id
from resnext.images.sources import image_source
from resnext.network.config import variant

GRAY = default_preprocessing(variant("resnext11_8x4d_digits"))
KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pictures(path: Path) -> list[Picture]:
    return [picture for shard in find_shards(path) for picture in shard.pictures()]


def facts(path: Path) -> list[tuple[str, object]]:
    return [(picture.key, picture.label) for picture in pictures(path)]


def ids(path: Path) -> list[str]:
    return [shard_id(shard, "facts") for shard in find_shards(path)]


def problem(picture: Picture) -> str:
    with pytest.raises(BadInput) as caught:
        picture.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet_of(path: Path, columns: dict[str, Any], rows: int = 3, **metadata: object) -> Path:
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({b"huggingface": json.dumps(metadata).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


# ---- what is in them


def test_a_folder_is_cut_into_shards_in_the_order_of_names_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MOST_PICTURES", 3)
    names = ["b/2.png", "a.png", "b/c/1.PNG", "d.jpg", ".hidden.png", ".git/e.png", "notes.txt"]
    folder_of(tmp_path / "in", [(name, png(1)) for name in names])
    (tmp_path / "in" / "b" / "loop").symlink_to(tmp_path / "in")
    shards = find_shards(tmp_path / "in")
    assert [[it.key for it in shard.pictures()] for shard in shards] == [
        ["a.png", "b/2.png", "b/c/1.PNG"],
        ["d.jpg"],
    ]
    assert [shard.weight for shard in shards] == [3, 1]
    assert next(pickle.loads(pickle.dumps(shards[1])).pictures()).load() == png(1)


def test_names_that_are_no_unicode_are_keys_all_the_same(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", [(os.fsdecode(b"caf\xe9.png"), png(1))])
    (picture,) = pictures(tmp_path / "in")
    assert picture.key == "caf\\xe9.png"
    assert picture.load() == png(1)
    assert len(ids(tmp_path / "in")) == 1


def test_a_tar_has_its_labels_beside_its_pictures(tmp_path: Path) -> None:
    members = [
        ("x/a.png", png(1)),
        ("x/a.cls", b"7\n"),
        ("x/b.json", b'{"label": "cat", "width": 8}'),
        ("x/b.png", png(2)),
        ("x/c.cls", b"\xff"),
        ("x/c.jpg", png(3)),
        ("x/c.seg.png", png(3)),
        ("y/c.jpg", png(4)),
        ("y/c.json", b'{"cls": 3}'),
        ("readme.txt", b"hello"),
        ("y/d.webp", png(5)),
        ("y/d.json", b"[1]"),
    ]
    assert facts(tar_of(tmp_path / "a.tar", members)) == [
        ("x/a.png", 7),
        ("x/b.png", "cat"),
        ("x/c.jpg", None),
        ("y/c.jpg", 3),
        ("y/d.webp", None),
    ]
    assert [it.load() for it in pictures(tmp_path / "a.tar")][:2] == [png(1), png(2)]


@pytest.mark.parametrize(
    ("members", "want"),
    [
        (["me.2020.01.jpg", "me.2020.02.jpg"], {"me.2020.01.jpg": None, "me.2020.02.jpg": None}),
        (["v1.0/a.b.jpg", "v1.0/a.b.cls"], {"v1.0/a.b.jpg": 7}),
        (["a.left.jpg", "a.right.PNG", "a.cls"], {"a.left.jpg": 7, "a.right.PNG": 7}),
        (["a.mask.png", "a.JPG", "a.json", "a.cls"], {"a.JPG": 7}),
        (["._a.jpg", "x/._a.jpg", "a.jpg"], {"a.jpg": None}),
        (["a.gif", "b.jfif", "a.jpg.txt"], {"a.gif": None, "b.jfif": None}),
    ],
)
def test_no_picture_of_a_tar_is_lost_because_of_dots_in_its_name(
    tmp_path: Path, members: list[str], want: dict[str, object]
) -> None:
    content = [(name, png(1) if not name.endswith(("cls", "json")) else b"7") for name in members]
    assert dict(facts(tar_of(tmp_path / "a.tar", content))) == want


def test_tar_files_in_a_folder_are_a_shard_each(tmp_path: Path) -> None:
    for name in ("b.tar", "a/c.tar"):
        tar_of(tmp_path / name, levels(2))
    shards = find_shards(tmp_path)
    assert [shard.name for shard in shards] == ["a/c.tar", "b.tar"]
    assert len(set(ids(tmp_path))) == 2


@pytest.mark.parametrize("nested", [True, False])
def test_row_groups_of_parquet_are_together_as_many_as_a_shard_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    monkeypatch.setattr(parquet, "MOST_PICTURES", 7)
    data = [png(level) for level in range(10)]
    images = (
        pa.array([{"bytes": it, "path": f"{n}.png"} for n, it in enumerate(data)], KIND)
        if nested
        else pa.array(data, pa.binary())
    )
    path = parquet_of(tmp_path / "t.parquet", {"image": images, "label": [0, 1] * 5})
    shards = find_shards(path)
    assert [(shard.name, shard.weight) for shard in shards] == [
        ("t.parquet#0", 6),
        ("t.parquet#2", 4),
    ]
    assert [len(list(shard.pictures())) for shard in shards] == [6, 4]
    ends = [f"/{number}.png" if nested else "" for number in range(10)]
    assert facts(path) == [(f"t.parquet#{n}{ends[n]}", n % 2) for n in range(10)]
    assert [it.load() for it in pictures(path)] == data


def test_rows_of_parquet_without_a_picture_say_so(tmp_path: Path) -> None:
    images = pa.array(
        [{"bytes": png(1), "path": None}, {"bytes": None, "path": "b.png"}, None], KIND
    )
    path = parquet_of(tmp_path / "t.parquet", {"image": images})
    first, *others = pictures(path)
    assert first.load() == png(1)
    for row, picture in enumerate(others, 1):
        assert problem(picture) == f"row {row} of t.parquet has no picture"


# ---- what is refused


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no picture, tar file or Parquet"),
        ({"a.txt": b"x"}, "no picture, tar file or Parquet"),
        ({"a.png": b"x", "b.tar": b"x"}, "several kinds, such as a.png .* and b.tar"),
        ({"a.parquet": b"PAR1 nothing PAR1"}, "cannot read .*a.parquet as Parquet"),
        ({"a.parquet": b""}, "it is empty"),
        ({"a.tar": b"x", "b.TAR.gz": b"x"}, "b.TAR.gz is a compressed archive"),
        ({"a.tgz": b"x"}, "a.tgz is a compressed archive"),
    ],
)
def test_an_input_that_cannot_serve_is_refused(
    tmp_path: Path, files: dict[str, bytes], why: str
) -> None:
    (tmp_path / "in").mkdir()
    folder_of(tmp_path / "in", files.items())
    with pytest.raises(BadInput, match=why):
        find_shards(tmp_path / "in")


def test_files_that_are_left_out_are_counted(tmp_path: Path) -> None:
    names = ["a.png", "b.heic", "c/d.zip", ".hidden.zip"]
    folder_of(tmp_path / "in", [(name, b"x") for name in names])
    said: list[str] = []
    assert len(find_shards(tmp_path / "in", said.append)) == 1
    assert said == ["2 other files are left out, such as b.heic"]


@pytest.mark.parametrize("name", ["absent", "a.zip"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"give a folder of pictures, tar files"):
        find_shards(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"text": ["a"]}, r"no columns of pictures \(text\)"),
        ({"x": pa.array([b""]), "y": pa.array([b""])}, r"several columns of pictures \(x, y\)"),
    ],
)
def test_parquet_without_one_column_of_pictures_is_refused(
    tmp_path: Path, columns: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        find_shards(parquet_of(tmp_path / "t.parquet", columns))


def test_a_row_group_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet_of(tmp_path / "t.parquet", {"image": pa.array([png(1)], pa.binary())})
    monkeypatch.setattr(parquet, "MOST_GROUP", 10)
    with pytest.raises(BadInput, match=r"row group 0 .* smaller row groups"):
        find_shards(path)


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("b.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


def test_members_that_are_no_files_are_pictures_without_a_result(tmp_path: Path) -> None:
    members: list[Any] = [("a.png", b""), link(), ("../../c.png", png(1)), ("/d.png", png(2))]
    empty, linked, *climbing = pictures(tar_of(tmp_path / "a.tar", members))
    assert problem(empty) == "cannot read a.png in a.tar: it has 0 bytes, it is empty"
    assert "b.png in a.tar: it is a link" in problem(linked)
    # a name is never a path, so it can do no harm
    assert [it.load() for it in climbing] == [png(1), png(2)]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.tar"]


def test_a_tar_that_is_cut_short_anywhere_says_so_and_keeps_what_was_before(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "whole.tar", levels(3)).read_bytes()
    end = 3 * 1024  # a header and one block each, then blocks of zeros
    assert whole[end:] == bytes(len(whole) - end)
    for cut in (1, 511, 512, 700, 1024, 1100, 1536, 1600, 2048, 2559, 2560, 3071, 3072):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        *before, last = pictures(tmp_path / "cut.tar")
        assert "cut.tar is cut short or damaged" in problem(last), cut
        read = 0
        for picture in before:
            try:
                read += picture.load() in dict(levels(3)).values()
            except BadInput as exc:
                assert "the archive is cut short" in str(exc)  # noqa: PT017  # which of two
        assert read == (cut + 1024 - 512 - len(png(1))) // 1024, cut
    assert len(pictures(tmp_path / "whole.tar")) == 3


def test_a_header_that_is_none_is_damage_and_not_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_of(tmp_path / "a.tar", levels(3)).read_bytes())
    data[1024] ^= 1  # in the name, so that the checksum is wrong
    (tmp_path / "b.tar").write_bytes(data)
    first, last = pictures(tmp_path / "b.tar")
    assert first.load() == levels(1)[0][1]
    assert "no header and no end at byte 1024" in problem(last)


def test_every_kind_of_member_size_is_refused_without_memory_or_an_endless_loop(
    tmp_path: Path,
) -> None:
    sound = bytearray(tar_of(tmp_path / "a.tar", levels(2)).read_bytes())

    def planted(kind: bytes, size: bytes) -> Path:
        header = bytearray(sound[:512])
        header[156:157], header[124:136], header[148:156] = kind, size, b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        (tmp_path / "b.tar").write_bytes(header + sound[512:])
        return tmp_path / "b.tar"

    large, negative = b"\x80" + struct.pack(">3xQ", 1 << 60), b"\xff" * 11 + b"\x00"
    for kind in (b"0", b"x", b"g", b"L", b"K", b"S", b"V"):
        for size in (large, negative, b"77777777777\0"):
            found = pictures(planted(kind, size))
            assert len(found) <= 2
            assert problem(found[-1])


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", levels(2))
    (shard,) = find_shards(path)
    first = next(iter(shard.pictures()))
    tar_of(path, levels(3))
    assert "changed since this began" in problem(first)


# ---- what is noticed

CHANGES: dict[str, Callable[[Path], object]] = {
    "another picture": lambda path: (path / "z.png").write_bytes(png(1)),
    "one removed": lambda path: (path / "0001.png").unlink(),
    "one renamed": lambda path: (path / "0001.png").rename(path / "0009.png"),
    "one rewritten": lambda path: os.utime(path / "0001.png", ns=(1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_folder_changes_its_id(tmp_path: Path, change: str) -> None:
    folder_of(tmp_path / "in", levels(3))
    before = ids(tmp_path / "in")
    assert ids(tmp_path / "in") == before
    CHANGES[change](tmp_path / "in")
    assert ids(tmp_path / "in") != before


@pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
def test_a_file_of_many_pictures_has_its_time_in_its_id_and_not_its_place(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "one" / name
    if name == "a.tar":
        tar_of(path, levels(2))
    else:
        parquet_of(path, {"image": pa.array([png(1)], pa.binary())})
    before = ids(path)
    path.parent.rename(tmp_path / "two")
    path = tmp_path / "two" / name
    assert ids(path) == before
    os.utime(path, ns=(1, 1))
    assert ids(path) != before


def test_what_the_outcome_depends_on_is_in_the_id(tmp_path: Path) -> None:
    (shard,) = find_shards(folder_of(tmp_path / "in", levels(1)))
    assert shard_id(shard, "batch 8") != shard_id(shard, "batch 16")


# ---- calibration and accuracy


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    """Two tar files with the same pictures as the folders ``classes/``."""
    members = [(f"{n % 2}/{n}", png(40 + n), str(n % 2).encode()) for n in range(6)]
    folder_of(tmp_path / "classes", [(f"{key}.png", data) for key, data, _ in members])
    for number in range(2):
        tar_of(
            tmp_path / "tars" / f"{number}.tar",
            [
                entry
                for key, data, label in members
                if key.startswith(str(number))
                for entry in ((f"{key}.png", data), (f"{key}.cls", label))
            ],
        )
    return tmp_path


def test_shards_are_the_same_images_as_the_folder_they_were_made_of(labeled: Path) -> None:
    want, have = (
        image_source(str(labeled / name), GRAY, split="test", classes=2)
        for name in ("classes", "tars")
    )
    assert np.array_equal(want.pixels(0, 6), have.pixels(0, 6))
    assert want.labels is not None
    assert have.labels is not None
    assert want.labels.tolist() == have.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_sample_of_shards_is_balanced_and_has_its_own_digest(labeled: Path) -> None:
    some = image_source(str(labeled / "tars"), GRAY, split="calibration", limit=2, classes=2)
    assert some.labels is not None
    assert some.labels.tolist() == [0, 1]
    every = image_source(str(labeled / "tars"), GRAY, split="calibration")
    assert every.digest != some.digest
    (labeled / "tars").rename(labeled / "elsewhere")
    again = image_source(str(labeled / "elsewhere"), GRAY, split="calibration")
    assert again.digest == every.digest


def test_names_of_classes_come_from_the_schema_of_hugging_face(tmp_path: Path) -> None:
    path = parquet_of(
        tmp_path / "t.parquet",
        {"image": pa.array([png(1), png(2)], pa.binary()), "label": [1, 0]},
        info={"features": {"label": {"names": ["bee", "ant"], "_type": "ClassLabel"}}},
    )
    source = image_source(str(path), GRAY, split="test", classes=3 - 1, class_names=("ant", "bee"))
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1]  # by name, not by number


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ((b"0", None), "pictures without labels"),
        ((b"0", b"2"), "has a label 2, and the network 2 classes"),
        ((b"0", b"cat"), "some labels .* are numbers"),
        ((b"dog", b"cat"), "has 2 classes and the network 2 without names"),
    ],
)
def test_labels_that_cannot_be_tested_with_are_refused(
    tmp_path: Path, labels: tuple[bytes | None, ...], why: str
) -> None:
    members = []
    for number, label in enumerate(labels):
        members.append((f"{number}.png", png(number)))
        if label is not None:
            members.append((f"{number}.cls", label))
    path = tar_of(tmp_path / "a.tar", members)
    if labels == (b"dog", b"cat"):
        image_source(str(path), GRAY, split="test", classes=2, class_names=("cat", "dog"))
        why = "classes of .* are not the network's"
        with pytest.raises(BadInput, match=why):
            image_source(str(path), GRAY, split="test", classes=2, class_names=("ant", "bee"))
        return
    with pytest.raises(BadInput, match=why):
        image_source(str(path), GRAY, split="test", classes=2)


def test_a_bad_picture_is_named_with_its_archive(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("a.png", png(1)), ("b.png", b"text")])
    source = image_source(str(path), GRAY, split="calibration")
    with pytest.raises(BadInput, match=r"b\.png in .*a\.tar is not an image"):
        source.pixels(0, 2)


def test_more_than_a_thousand_pictures_of_parquet_are_told_apart_by_their_file(
    tmp_path: Path,
) -> None:
    digests = []
    for level in (1, 2):
        images = pa.array([png(level)] * 1001, pa.binary())
        path = parquet_of(tmp_path / f"{level}" / "t.parquet", {"image": images}, rows=2000)
        digests.append(image_source(str(path), GRAY, split="calibration").digest)
    assert digests[0] != digests[1]


def test_a_shard_is_small_enough_to_send(tmp_path: Path) -> None:
    shard: Shard
    (shard,) = find_shards(folder_of(tmp_path / "in", levels(100)))
    assert len(pickle.dumps(shard)) < 10_000
