"""Finds the shards of an input: a folder of pictures, tar files, or Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from resnext.errors import BadInput
from resnext.readers.files import exists, is_folder

from .folder import SUFFIXES, folder_shards
from .parquet import parquet_shards
from .shard import Shard, plain
from .tar import tar_shards

#: Kinds of files that hold many pictures, by suffix.
CONTAINERS: Mapping[str, Callable[[Path, str], Iterator[Shard]]] = {
    ".tar": tar_shards,
    ".parquet": parquet_shards,
}
#: Ends of the names of archives that are compressed.
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_HINT = "give a folder of pictures, tar files (.tar) or Parquet (.parquet)"


def find_shards(path: Path, say: Callable[[str], object] = lambda _: None) -> tuple[Shard, ...]:
    """The shards of ``path``, in the order of names.

    Args:
        path: a tar file, a Parquet file, or a folder with such files or with pictures, at any
            depth. Hidden files and folders are left out.
        say: told how many files of a folder are left out because they are of no such kind.

    Raises:
        BadInput: there is nothing at ``path``, nothing of these kinds in it, several kinds, or a
            compressed archive.
        MissingRequirement: Parquet, and pyarrow is not installed.
    """
    if not exists(path):
        raise BadInput(f"nothing at {path}", hint=_HINT)
    if not is_folder(path):
        make = CONTAINERS.get(_kind(path.name))
        if make is None:
            raise BadInput(f"{path} is no folder and has no suffix of a known kind", hint=_HINT)
        return tuple(make(path, path.name))
    found: dict[str, list[str]] = {}
    for name in sorted(_files(path)):
        found.setdefault(_kind(name), []).append(name)
    others = found.pop("", [])
    if len(found) > 1:
        kinds = " and ".join(f"{names[0]} ({kind})" for kind, names in found.items())
        raise BadInput(f"{path} holds files of several kinds, such as {kinds}", hint=_HINT)
    if not found:
        raise BadInput(f"no picture, tar file or Parquet in {path}", hint=_HINT)
    ((kind, names),) = found.items()
    if others:
        say(f"{len(others)} other files are left out, such as {plain(others[0])}")
    if kind == "pictures":
        return tuple(folder_shards(path, names))
    return tuple(shard for name in names for shard in CONTAINERS[kind](path / name, name))


def _kind(name: str) -> str:
    """A suffix of `CONTAINERS`, "pictures", or "" for other files.

    Raises:
        BadInput: it is a compressed archive.
    """
    lower = name.lower()
    if lower.endswith(_COMPRESSED):
        raise BadInput(
            f"{plain(name)} is a compressed archive",
            hint="unpack it to a .tar: pictures are compressed already",
        )
    suffix = os.path.splitext(lower)[1]  # noqa: PTH122  # of a million names, and a fifth of the time
    return suffix if suffix in CONTAINERS else "pictures" if suffix in SUFFIXES else ""


def holds_shards(path: Path) -> bool:
    """Whether ``path`` is a tar or Parquet file, or a folder that has one directly in it."""
    try:
        files = list(path.iterdir()) if is_folder(path) else [path] if exists(path) else []
    except OSError:  # said where the folder is read
        return False
    return any(it.suffix.lower() in CONTAINERS and it.name[:1] != "." for it in files)


def _files(root: Path) -> Iterator[str]:
    """Paths of the files under ``root``, relative to it, with slashes; follows links to folders,
    each folder once.
    """
    seen = {os.path.realpath(root)}

    def refuse(exc: OSError) -> None:
        raise BadInput(f"cannot read the folder {exc.filename}: {exc.strerror}") from exc

    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        kept = []
        for name in sorted(inner):
            real = os.path.realpath(Path(folder, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        inner[:] = kept
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() for name in files if not name.startswith("."))
