"""Kernels of TensorRT-RTX between processes: whatever is wrong with the file costs time and is
never an error.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resnext.runtimes.trt.kernel_cache import KernelCache
from resnext.runtimes.trt.library import CompiledKernels
from resnext.storage import read_cached, write_cached


class Kernels:
    """The library's cache: serializes to the data that it was made from."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.asked = 0

    def serialize(self) -> bytes | None:
        self.asked += 1
        return self.data


def compiled(data: bytes | None, *, rejected: bool = False) -> CompiledKernels:
    return CompiledKernels(Kernels(data), None, rejected)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kernels" / "engine.bin"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def note(cache: KernelCache) -> str:
    return cache.notes()["kernel cache"]


def test_what_one_process_keeps_the_next_one_reads(path: Path) -> None:
    first = KernelCache(path)
    assert first.read() is None
    first.add(compiled(b"kernels"))
    first.write()
    assert note(first) == "compiled now"
    second = KernelCache(path)
    assert second.read() == b"kernels"
    assert note(second) == "reused"


@pytest.mark.parametrize("at", [0, 40, -1])
def test_kernels_with_one_bit_flipped_are_never_passed_to_the_library(path: Path, at: int) -> None:
    write_cached(path, b"kernels of an earlier process")
    flip(path, at)
    cache = KernelCache(path)
    assert cache.read() is None
    cache.add(compiled(b"new"))
    cache.write()
    assert note(cache) == "compiled now"
    assert read_cached(path) == b"new"


def test_what_this_process_wrote_itself_is_not_called_reused(path: Path) -> None:
    cache = KernelCache(path)
    cache.read()
    cache.add(compiled(b"one"))
    cache.write()
    assert cache.read() == b"one"  # the next context starts from it
    assert note(cache) == "compiled now"


def test_the_newest_context_is_kept_since_it_began_with_the_others_kernels(path: Path) -> None:
    cache = KernelCache(path)
    for data in (b"one", b"one two"):
        cache.add(compiled(data))
        cache.write()
    assert read_cached(path) == b"one two"


def test_nothing_is_written_twice(path: Path) -> None:
    cache = KernelCache(path)
    cache.add(compiled(b"kernels"))
    cache.write()
    path.write_bytes(b"another process's, with more in it")
    cache.write()
    assert path.read_bytes() == b"another process's, with more in it"


def test_a_library_that_compiles_nothing_has_no_file_and_no_note() -> None:
    cache = KernelCache(None)
    kernels = Kernels(b"kernels")
    cache.add(CompiledKernels(kernels, None, rejected=False))
    cache.add(None)
    cache.write()
    assert cache.read() is None
    assert cache.notes() == {}
    assert kernels.asked == 0


@pytest.mark.parametrize("rejected", [True, False])
def test_kernels_that_the_library_rejects_are_not_called_reused(path: Path, rejected: bool) -> None:
    write_cached(path, b"of another driver")
    cache = KernelCache(path)
    assert cache.read() == b"of another driver"
    cache.add(compiled(b"new", rejected=rejected))
    assert note(cache).startswith("compiled now, since" if rejected else "reused")
    cache.write()
    assert read_cached(path) == b"new"


def test_a_library_with_nothing_to_keep_is_told(path: Path) -> None:
    cache = KernelCache(path)
    cache.add(compiled(None))
    cache.write()
    assert note(cache) == "compiled now, not kept: the library gives nothing to keep"
    assert not path.exists()


def test_a_file_where_a_folder_should_be_is_told(path: Path) -> None:
    path.parent.write_text("a file")
    cache = KernelCache(path)
    assert cache.read() is None
    cache.add(compiled(b"kernels"))
    cache.write()
    assert note(cache).startswith("compiled now, not kept: ")
    assert path.parent.read_text() == "a file"


def test_a_folder_where_the_file_should_be_is_told(path: Path) -> None:
    path.mkdir(parents=True)
    cache = KernelCache(path)
    assert cache.read() is None
    cache.add(compiled(b"kernels"))
    cache.write()
    assert note(cache).startswith("compiled now, not kept: ")
    assert list(path.parent.iterdir()) == [path]  # and nothing half-written


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cached(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # the new file is written, and not yet in place
    cache = KernelCache(path)
    cache.add(compiled(b"kernels"))
    cache.write()
    assert read_cached(path) == b"old"
    assert list(path.parent.iterdir()) == [path]
    assert note(cache) == "compiled now, not kept: No space left on device"


def test_dropped_objects_are_not_asked_again(path: Path) -> None:
    kernels = Kernels(b"kernels")
    cache = KernelCache(path)
    cache.add(CompiledKernels(kernels, None, rejected=False))
    cache.drop()
    cache.write()
    assert kernels.asked == 0
    assert not path.exists()
