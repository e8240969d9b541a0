"""Folders, by using them: created, written, flushed, locked, mapped for execution."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from resnext.storage import cache_folder, work_folder

from .facts import Facts
from .observation import Observation, absent, ok, problem, warning

_PROBE_BYTES = 1 << 20
_LITTLE_BYTES = 1 << 30
_LITTLE_SHARED_BYTES = 64 << 20
#: Maps a page of an open file for execution; fails on a disk that is mounted noexec.
MapExecutable = Callable[[int], object]


def _map_executable(file: int) -> None:
    mmap.mmap(file, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def check_temporary(
    _: Facts, folder: Path | None = None, map_executable: MapExecutable = _map_executable
) -> Iterator[Observation]:
    """The folder for temporary files, into which PyTorch compiles."""
    try:
        folder = Path(tempfile.gettempdir()) if folder is None else folder
    except OSError as exc:  # none of the usual ones can be written to
        yield problem(
            "no-temporary-folder",
            f"no temporary folder: {exc.strerror}",
            "set TMPDIR to a folder that can be written to",
        )
        return
    yield from _used(folder, "TMPDIR", map_executable)


def check_cache(
    _: Facts, folder: Path | None = None, map_executable: MapExecutable | None = None
) -> Iterator[Observation]:
    """The cache folder."""
    yield from _used(folder or cache_folder(), "RESNEXT_CACHE_DIR", map_executable)


def _used(
    folder: Path, variable: str, map_executable: MapExecutable | None
) -> Iterator[Observation]:
    elsewhere = f"set {variable} to a folder that can be written to"
    try:
        with work_folder(folder, ".doctor-") as work:  # makes and locks it
            path = work / "probe"
            data = os.urandom(_PROBE_BYTES)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if path.read_bytes() != data:
                yield problem(
                    "disk-lies", f"{folder} does not give back what was written", elsewhere
                )
                return
            free = shutil.disk_usage(work).free
            refused = _refused(path, map_executable)
    except (OSError, NotImplementedError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        yield problem(
            "unusable-folder", f"{folder} cannot be used: {reason}", f"make room, or {elsewhere}"
        )
        return
    if refused:
        yield problem(
            "noexec",
            f"{folder} is mounted noexec ({refused}): what PyTorch compiles into it does not load",
            f"set {variable} to a folder on a disk that is mounted with exec",
        )
    if free < _LITTLE_BYTES:
        yield warning(
            "little-room",
            f"{folder} has {free / 2**20:.0f} MiB left",
            f"make room, or set {variable} to a folder on another disk",
        )
    elif not refused:
        yield ok(f"{folder}: written, flushed, locked; {free / 2**30:.1f} GiB free")


def _refused(path: Path, map_executable: MapExecutable | None) -> str:
    if map_executable is None:
        return ""
    with path.open("rb") as file:
        try:
            map_executable(file.fileno())
        except OSError as exc:
            return str(exc.strerror)
    return ""


def check_home(facts: Facts) -> Iterator[Observation]:
    """The home folder, in which libraries keep their caches and settings."""
    name = facts.environ.get("HOME")
    hint = "set HOME to a folder that can be written to, or RESNEXT_CACHE_DIR and HF_HOME"
    if not name:
        yield warning("no-home", "HOME is not set: libraries find no place for their caches", hint)
    elif not os.access(name, os.W_OK | os.X_OK):
        yield warning("no-home", f"HOME is {name}, which cannot be written to", hint)
    else:
        yield ok(name)


def check_shared_memory(facts: Facts) -> Iterator[Observation]:
    """Shared memory, which loaders of images in several processes use."""
    folder = facts.root / "dev/shm"
    if not folder.is_dir():
        yield absent("no-shared-memory", "no /dev/shm on this system")
        return
    size = shutil.disk_usage(folder).total
    if size <= _LITTLE_SHARED_BYTES or not os.access(folder, os.W_OK):
        yield warning(
            "little-shared-memory",
            f"/dev/shm has {size / 2**20:.0f} MiB, or cannot be written to",
            "start the container with `shm_size` 1g",
        )
    else:
        yield ok(f"/dev/shm: {size / 2**30:.1f} GiB")
