"""Shards of a folder of pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from resnext.errors import BadInput
from resnext.readers.files import MOST_PICTURE, read_file

from .shard import Picture, Shard, plain

#: Suffixes of pictures.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif"),
    *(".ppm", ".pgm", ".bmp", ".tif", ".tiff"),
)
#: Most pictures of one shard: a minute of a large network on a CPU, a second on a GPU.
MOST_PICTURES = 2048


@dataclass(frozen=True)
class FolderShard(Shard):
    """Some of the pictures under a folder.

    Attributes:
        root: the folder.
        name: as for any shard.
        files: path relative to ``root``, size in bytes and time of the last change in ns of each;
            -1 for both if there is no such file, which a link to nowhere is.
    """

    root: Path
    name: str
    files: tuple[tuple[str, int, int], ...]

    @property
    def pictures_known(self) -> int:  # type: ignore[override]  # an attribute for its callers
        """Number of its pictures."""
        return len(self.files)

    @property
    def weight(self) -> int:  # type: ignore[override]
        """Pictures."""
        return len(self.files)

    def listing(self) -> Iterable[str]:
        """Name, size and time of each file."""
        return (f"{size} {changed} {path}" for path, size, changed in self.files)

    def pictures(self) -> Iterator[Picture]:
        """In the order of names."""
        for path, size, _ in self.files:
            load = partial(self._bytes, path)
            yield Picture(plain(path), None, max(size, 0), load)

    def _bytes(self, path: str) -> bytes:
        whole = self.root / path
        try:
            return read_file(whole, MOST_PICTURE)
        except BadInput as exc:  # rows do not tell where the folder was mounted
            raise BadInput(str(exc).replace(str(whole), path)) from exc


def folder_shards(root: Path, names: Sequence[str]) -> Iterator[FolderShard]:
    """Shards of the pictures ``names`` under ``root``, up to `MOST_PICTURES` each."""
    rest = iter(names)
    for number in itertools.count():
        some = tuple(itertools.islice(rest, MOST_PICTURES))
        if not some:
            return
        yield FolderShard(root, f"{number:06d}", tuple((it, *_status(root / it)) for it in some))


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return -1, -1
    return status.st_size, status.st_mtime_ns


def file_status(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a file with many pictures.

    Raises:
        BadInput: there is none.
    """
    size, changed = _status(path)
    if size < 0:
        raise BadInput(f"cannot read {path}: there is no such file")
    return size, changed
