"""Files and folders: atomic writes, locks between processes, and the cache folder."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import MissingRequirement, UsageError
from .readers.files import exists

_ELSEWHERE = "choose another path"


def cache_folder() -> Path:
    """``$RESNEXT_CACHE_DIR``, or the platform's cache folder.

    Everything in it can be made again: artifacts, engines, compiled kernels, reference logits.
    """
    if chosen := os.environ.get("RESNEXT_CACHE_DIR"):
        return _home_replaced(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("resnext-toolkit")


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            partial.chmod(path.stat().st_mode & 0o7777)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold the lock file ``lock``, so that other processes wait; creates its folder.

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
        yield
    finally:
        file_lock.release()


def check_writable(target: str | Path | None) -> None:
    """Check before long work that ``target`` can be written; None and ``-`` always can.

    Raises:
        UsageError: ``target`` is a file of an artifact.
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
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            path.unlink()
        elif path.is_dir() or not os.access(path, os.W_OK):
            raise MissingRequirement(
                f"cannot write {target}: it is a folder or not writable", hint=_ELSEWHERE
            )
    except OSError as exc:
        raise MissingRequirement(f"cannot write {target}: {exc.strerror}", hint=_ELSEWHERE) from exc


def write_text(target: str, text: str) -> None:
    """Write ``text`` to a file, whole or not at all; ``-`` is stdout.

    Symbolic links are followed; pipes and devices are written to in place.

    Raises:
        MissingRequirement: the file cannot be written.
    """
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = _home_replaced(target)
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as stream:
                stream.write(text)
        else:
            write_whole(path.resolve(), text.encode())
    except OSError as exc:
        raise MissingRequirement(f"cannot write {target}: {exc.strerror}", hint=_ELSEWHERE) from exc
    sys.stderr.write(f"wrote {target}\n")
