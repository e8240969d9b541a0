"""ZIP archives: every way to be two things at once, or to lie about a size, is refused."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.package import LIBRARY, facts_of, record_here, write_package
from resnext.errors import BadArtifact
from resnext.readers.archives import read_entries, take
from resnext.readers.libraries import check_library
from resnext.runtimes.pt2.package import read_package
from resnext.weights.spec import Weights


def archive(*names: str, change: Callable[[zipfile.ZipInfo], object] = lambda _: None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name in names:
            entry = zipfile.ZipInfo("plain")
            entry.filename = name  # the constructor would tidy it
            change(entry)
            target.writestr(entry, b"content of 18 bytes")
    return out.getvalue()


def patched(data: bytes, old: bytes, new: bytes, *, count: int = -1) -> bytes:
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new, count)


GOOD = archive("m/a", "m/b")
CENTRAL = GOOD.index(b"PK\1\2")


def in_directory(offset: int, value: bytes) -> bytes:
    """`GOOD` with other bytes in the directory's first entry."""
    at = CENTRAL + offset
    return GOOD[:at] + value + GOOD[at + len(value) :]


def huge_entry() -> bytes:
    out = bytearray(archive("m/a"))
    for at in (18, 22, out.index(b"PK\1\2") + 20, out.index(b"PK\1\2") + 24):
        out[at : at + 4] = struct.pack("<I", 1 << 31)
    return bytes(out)


def within_another() -> bytes:
    """Two entries of which the second is the content of the first."""
    inner = archive("m/b")
    local = inner[: inner.index(b"PK\1\2")]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        target.writestr("m/a", local)
    data = out.getvalue()
    at = data.index(b"PK\1\2")
    start = data.index(local)
    entry = bytearray(inner[inner.index(b"PK\1\2") : inner.index(b"PK\5\6")])
    entry[42:46] = struct.pack("<I", start)
    end = bytearray(data[data.index(b"PK\5\6") :])
    end[8:12] = struct.pack("<HH", 2, 2)
    directory = data[at : data.index(b"PK\5\6")] + bytes(entry)
    end[12:16] = struct.pack("<I", len(directory))
    return data[:at] + directory + bytes(end)


def directory_moved() -> bytes:
    """`GOOD` with every offset shifted alike: Python corrects that, and others look elsewhere."""
    data = bytearray(GOOD)
    first, second, end = CENTRAL, GOOD.index(b"PK\1\2", CENTRAL + 1), GOOD.index(b"PK\5\6")
    for at in (first + 42, second + 42, end + 16):
        data[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", data, at)[0] + 10)
    return bytes(data)


BAD = {
    "nothing": b"",
    "no archive": b"this is no archive" * 10,
    "no entries": archive(),
    "cut short": GOOD[:-30],
    "absolute": archive("/m/a"),
    "climbing": archive("m/../../a"),
    "a dot": archive("m/./a"),
    "a folder": archive("m/"),
    "nothing between slashes": archive("m//a"),
    "a backslash": patched(archive("m/_a"), b"m/_a", b"m\\_a"),
    "a drive": archive("C:/a"),
    "a zero byte": patched(archive("m/_a"), b"m/_a", b"m/\0a"),
    "an escape": archive("m/\x1b[31m"),
    "a long name": archive("m/" + "a" * 600),
    "repeated": patched(archive("m/a", "m/b"), b"m/b", b"m/a"),
    "a link": archive("m/a", change=lambda e: setattr(e, "external_attr", 0o120777 << 16)),
    "a device": archive("m/a", change=lambda e: setattr(e, "external_attr", 0o020666 << 16)),
    "compressed": archive("m/a", change=lambda e: setattr(e, "compress_type", 8)),
    "encrypted": in_directory(8, b"\1\0"),
    "another name in front": patched(GOOD, b"m/a", b"m/x", count=1),
    "another size in the directory": in_directory(24, struct.pack("<I", 5)),
    "both sizes smaller": in_directory(20, struct.pack("<II", 5, 5)),
    "larger than the file": huge_entry(),
    "a flipped bit": patched(GOOD, b"content of 18", b"content of 28", count=1),
    "another checksum": in_directory(16, b"\0\0\0\0"),
    "an entry elsewhere": in_directory(42, struct.pack("<I", 7)),
    "an entry beyond the file": in_directory(42, struct.pack("<I", 1 << 30)),
    "one within another": within_another(),
    "a directory elsewhere": directory_moved(),
    "bytes in front": b"#!/bin/sh\n" + GOOD,
    "a comment": GOOD[:-2] + b"\4\0PK\5\6",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_an_archive_that_is_not_just_its_entries_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_entries(io.BytesIO(BAD[name]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_whole_archive_gives_its_entries() -> None:
    file = io.BytesIO(GOOD)
    entries = read_entries(file)
    assert {name: take(file, entry) for name, entry in entries.items()} == {
        "m/a": b"content of 18 bytes",
        "m/b": b"content of 18 bytes",
    }


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_what_is_accepted_every_reader_sees_alike(data: st.DataObject) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(raw)
    try:
        entries = read_entries(file)
    except ValueError as exc:
        reason, entries = str(exc), {}
    else:
        reason = ""
    assert "\n" not in reason
    if entries:
        with zipfile.ZipFile(io.BytesIO(raw)) as seen:
            assert {name: seen.read(name) for name in entries} == {
                name: take(file, entry) for name, entry in entries.items()
            }


# ---- packages: the library in them


def package(path: Path, weights: Weights, library: bytes) -> Path:
    record = record_here(weights, platform="linux-x86_64")
    write_package(path / "model.pt2", record, facts_of(weights), library)
    return path / "model.pt2"


@pytest.fixture(scope="module")
def real_library() -> bytes:
    import _struct

    return Path(_struct.__file__).read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"not a library",
        lambda data: data[:40],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:4] + b"\1" + data[5:],
        lambda data: data[:16] + b"\2" + data[17:],
    ],
    ids=["empty", "text", "header", "half", "a byte less", "32 bits", "a program"],
)
def test_a_package_without_a_whole_library_is_refused_before_it_is_loaded(
    damage: Callable[[bytes], bytes], real_library: bytes, digits: Weights, tmp_path: Path
) -> None:
    assert read_package(package(tmp_path, digits, real_library)).record.platform == "linux-x86_64"
    with pytest.raises(BadArtifact, match="its library is") as caught:
        read_package(package(tmp_path, digits, damage(real_library)))
    assert "\n" not in str(caught.value)


def test_a_package_without_a_library_is_refused(digits: Weights, tmp_path: Path) -> None:
    path = package(tmp_path, digits, LIBRARY)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "cut.pt2", "w") as cut:
        for name in whole.namelist():
            if not name.endswith(".so"):
                cut.writestr(name, whole.read(name))
    with pytest.raises(BadArtifact, match="it has 0 libraries instead of one"):
        read_package(tmp_path / "cut.pt2")


def test_a_package_in_two_folders_is_refused(digits: Weights, tmp_path: Path) -> None:
    # Without their folder, two libraries have one name: one would be checked, another be loaded.
    path = package(tmp_path, digits, LIBRARY)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data/aotinductor/model/resnext.wrapper.so", LIBRARY)
    with pytest.raises(BadArtifact, match="its entries are in several folders"):
        read_package(path)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_header_of_a_library_is_harmless(
    real_library: bytes, data: st.DataObject
) -> None:
    raw = bytearray(real_library)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    try:
        check_library(bytes(raw))
    except ValueError as exc:
        assert str(exc).startswith("is ")  # noqa: PT017  # either is fine
