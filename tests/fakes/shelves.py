"""Pictures in folders, tar files and Parquet, for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image


def png(level: int, size: int = 8) -> bytes:
    """A gray picture of one level, with its top left pixel black."""
    pixels = np.full((size, size), level % 256, np.uint8)
    pixels[0, 0] = 0
    return saved(PIL.Image.fromarray(pixels), "PNG")


def saved(image: PIL.Image.Image, format: str, **options: object) -> bytes:
    """The bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def folder_of(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A folder with files, which may be in folders."""
    for name, data in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tar_of(path: Path, members: Iterable[tuple[str, bytes] | tarfile.TarInfo]) -> Path:
    """A tar file with members; a `TarInfo` has no bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def levels(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    """Pictures ``0000.png`` and so on, each of another level."""
    return [(f"{number:04d}.png", png(40 + number)) for number in range(first, first + count)]
