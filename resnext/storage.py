"""Files and folders: atomic writes, digests, locks between processes, and the cache folder."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import BadInput, MissingRequirement, UsageError, printable
from .readers.files import check_utf8, exists, read_file

_ELSEWHERE = "choose another path"
_DIGEST_BYTES = 32
#: Largest file that the cache keeps, bytes.
_MOST_CACHED = 1 << 31
#: Longest name that the name of a work folder holds, bytes: with a prefix and random digits it has
#: to stay below what a file system allows, which is 255.
_MOST_NAMED = 200
_LOCK_NAME = "lock"
_SCRATCH = "resnext-scratch-"
#: Work folders of this process.
_own: set[Path] = set()


def cache_folder() -> Path:
    """``$RESNEXT_CACHE_DIR``, or the platform's cache folder.

    Everything in it can be made again: artifacts, engines, compiled kernels, reference logits.

    Raises:
        BadInput: its path is not UTF-8, so that some library could not open what is in it.
    """
    if chosen := os.environ.get("RESNEXT_CACHE_DIR"):
        folder = _home_replaced(chosen)
    else:
        from platformdirs import user_cache_path

        folder = user_cache_path("resnext-toolkit")
    check_utf8(folder, "the cache folder, RESNEXT_CACHE_DIR,")
    return folder


def _home_replaced(path: str | Path) -> Path:
    """``path`` with a home folder for ``~``, left alone if nobody has that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and flush it to disk; creates its folder.

    A file that is replaced keeps its mode. Two writers at once are safe: the last one wins.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    with written_whole(path) as file:
        file.write(data)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """`write_whole` for what is written piece by piece: the file that the block writes to takes the
    place of ``path`` if the block ends without an error.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    with work_folder(path.parent, partial_prefix(path)) as folder:
        partial = folder / path.name
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            partial.chmod(path.stat().st_mode & 0o7777)
        partial.replace(path)


def write_cached(path: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all, behind a digest of its bytes and its name.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    write_whole(path, _digest(path, data) + data)


def read_cached(path: Path) -> bytes | None:
    """The bytes that `write_cached` wrote to ``path``.

    Returns:
        None if the file is absent, unreadable, damaged, renamed, or no plain file: it is to be made
        again.
    """
    try:
        stored = read_file(path, _MOST_CACHED)
    except BadInput:
        return None
    digest, data = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return data if digest == _digest(path, data) else None


def _digest(path: Path, data: bytes) -> bytes:
    """Digest of ``data`` and of the last two names of ``path``, which are its key."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode() + data).digest()


@contextmanager
def work_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent`` for work in progress, removed in the end; creates ``parent``.

    Its owner holds a lock on a file in it, which ends with the process, however that ends, and is
    seen from other containers and hosts, unlike a process id. Folders with the same prefix that
    nobody holds were left by killed processes, and are removed first.

    Args:
        parent: where to make it.
        prefix: of its name.

    Raises:
        OSError: it cannot be made.
    """
    from filelock import FileLock, Timeout

    parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(parent, f"{glob.escape(prefix)}*")
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        _own.add(folder)
        folder.mkdir(mode=0o700)
        lock = FileLock(folder / _LOCK_NAME)
        try:
            lock.acquire(blocking=False)
            if (folder / _LOCK_NAME).exists():
                break
        except (Timeout, FileNotFoundError, FileExistsError):
            continue  # another process removed it before it was locked
        except BaseException:
            _remove(folder)
            raise
    try:
        yield folder
    finally:
        _remove(folder)
        lock.release()


@contextmanager
def left_behind(folder: Path) -> Iterator[bool]:
    """Whether ``folder`` is a work folder whose process has ended; if so, the block holds its lock.

    A folder of another user never is, nor is one without a lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK_NAME)
    with suppress(Timeout, OSError):
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            if (folder / _LOCK_NAME).is_file():
                lock.acquire(blocking=False)
            else:
                folder.rmdir()  # killed before it made its lock; fails if anything is inside
    try:
        yield lock.is_locked
    finally:
        lock.release()


def partial_prefix(path: Path) -> str:
    """Prefix of the work folders beside ``path``; it has the digest of a name that is too long."""
    name = path.name
    if len(os.fsencode(name)) > _MOST_NAMED:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.partial-"


def remove_left_behind(parent: Path, pattern: str) -> None:
    """Remove the work folders in ``parent`` that killed processes left."""
    for folder in parent.glob(pattern):
        with left_behind(folder) as abandoned:
            if abandoned:
                _remove(folder)


def remove_own() -> None:
    """Remove every work folder of this process; one that was interrupted while it unwound may have
    left some.

    A thread that still runs may be making or removing its folder, and removes it in the end.
    """
    for folder in list(_own):
        with suppress(OSError):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a work folder, its lock last: a folder without one is nobody's to remove."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name != _LOCK_NAME:
                remove(path)
    remove(folder)
    _own.discard(folder)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, in ``$TMPDIR`` if that is set; those of killed processes are removed.

    Raises:
        BadInput: its path is not UTF-8.
        MissingRequirement: it cannot be made.
    """
    check_utf8(tempfile.gettempdir(), "the temporary folder, TMPDIR,")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(work_folder(Path(tempfile.gettempdir()), _SCRATCH))
        except OSError as exc:
            raise MissingRequirement(
                f"cannot make a temporary folder: {exc.strerror or exc}",
                hint="set TMPDIR to a folder with room that can be written to",
            ) from exc
        yield folder


@contextmanager
def others_scratch_folder() -> Iterator[Path]:
    """A `scratch_folder` for libraries: inside the block, Python's temporary files go there, so
    that a killed process leaves none. Other threads' do as well: keep the block short.

    Raises:
        MissingRequirement: as `scratch_folder`.
    """
    with scratch_folder() as folder:
        before = tempfile.tempdir
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold the lock file ``lock``, so that other processes wait; creates its folder, and removes
    what killed processes left in it.

    Raises:
        MissingRequirement: the file cannot be made.
    """
    from filelock import FileLock

    file_lock = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire()
    except OSError as exc:
        raise MissingRequirement(
            f"cannot use the cache folder {lock.parent}: {exc.strerror or exc}",
            hint="set RESNEXT_CACHE_DIR to one that can be written to",
        ) from exc
    try:
        remove_left_behind(lock.parent, ".*.partial-*")
        yield
    finally:
        file_lock.release()


@contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Whether the block holds the lock file ``lock``, which no other process does then; removed in
    the end. That of a process that died is nobody's.

    Raises:
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    file_lock = FileLock(lock)
    with suppress(Timeout):
        file_lock.acquire(blocking=False)
        while not lock.exists():  # removed by its holder after it was opened here
            file_lock.release()
            file_lock.acquire(blocking=False)
    try:
        yield file_lock.is_locked
    finally:
        if file_lock.is_locked:
            lock.unlink(missing_ok=True)
        file_lock.release()


def check_writable(target: str | Path | None) -> None:
    """Check before long work that ``target`` can be written; None and ``-`` always can.

    Raises:
        UsageError: ``target`` is a file of an artifact.
        BadInput: its name is too long for a file.
        MissingRequirement: it cannot be written.
    """
    if target is None or str(target) == "-":
        return
    path = _home_replaced(target).resolve()
    if exists(path.parent / "manifest.json") and exists(path):
        raise UsageError(
            f"{target} is in an artifact's folder and would be overwritten", hint=_ELSEWHERE
        )
    try:
        if not path.exists():
            with work_folder(path.parent, partial_prefix(path)):
                pass
        elif path.is_dir() or not os.access(path, os.W_OK):
            raise MissingRequirement(
                f"cannot write {target}: it is a folder or not writable", hint=_ELSEWHERE
            )
    except OSError as exc:
        kind = BadInput if exc.errno == errno.ENAMETOOLONG else MissingRequirement
        raise kind(f"cannot write {target}: {exc.strerror}", hint=_ELSEWHERE) from exc


def write_text(target: str, text: str, *, final: bool = True) -> None:
    """Write ``text`` to a file, whole or not at all; ``-`` is stdout.

    Symbolic links are followed; pipes and devices are written to in place.

    Args:
        target: path, or ``-``.
        text: the content.
        final: False for a version that a later call replaces: it goes into regular files only, and
            is not announced.

    Raises:
        MissingRequirement: the file cannot be written.
    """
    path = _home_replaced(target)
    if not final and (target == "-" or (path.exists() and not path.is_file())):
        return
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as stream:
                stream.write(text)
        else:
            write_whole(path.resolve(), text.encode())
    except OSError as exc:
        raise MissingRequirement(f"cannot write {target}: {exc.strerror}", hint=_ELSEWHERE) from exc
    if final:
        sys.stderr.write(printable(f"wrote {target}") + "\n")
