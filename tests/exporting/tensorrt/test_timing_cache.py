"""TensorRT's kernel timings between builds: a damaged file of the cache is never passed to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resnext.errors import MissingRequirement
from resnext.storage import read_cached
from resnext_export.tensorrt.timing_cache import TimingCache


class Config:
    """The builder's configuration: takes any bytes that begin as timings do."""

    def __init__(self) -> None:
        self.timings = b""

    def create_timing_cache(self, stored: bytes) -> bytes | None:
        return stored if stored[:7] in (b"", b"timings") else None

    def set_timing_cache(self, timings: bytes, _ignore: bool) -> bool:
        self.timings = timings
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.timings + b"timings of a layer, ")


def built(path: Path, *, shared: bool = False) -> tuple[bytes, bool]:
    """What the builder was given, and whether it rejected the file; a build extends the file."""
    cache, config = TimingCache(path, shared=shared), Config()
    cache.attach(None, config)
    given = config.timings
    cache.write(config)
    return given, cache.rejected


def test_one_build_starts_from_the_timings_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "trt-timing" / "gpu.cache"
    assert built(path) == (b"", False)
    assert built(path) == (b"timings of a layer, ", False)
    assert read_cached(path) == b"timings of a layer, " * 2


@pytest.mark.parametrize("at", [0, 31, 32, 45, -1])
def test_timings_with_one_bit_flipped_are_measured_again(at: int, tmp_path: Path) -> None:
    path = tmp_path / "trt-timing" / "gpu.cache"
    built(path)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert built(path)[0] == b""
    assert built(path) == (b"timings of a layer, ", False)


def test_a_users_file_is_in_the_librarys_own_format(tmp_path: Path) -> None:
    path = tmp_path / "times"
    path.write_bytes(b"timings of another tool, ")
    assert built(path, shared=True) == (b"timings of another tool, ", False)
    assert path.read_bytes() == b"timings of another tool, timings of a layer, "


def test_a_users_file_of_something_else_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "times"
    path.write_bytes(b"of another GPU")
    assert built(path, shared=True) == (b"", True)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingRequirement, match="cannot write the timing cache"):
        built(tmp_path / "file" / "times")
