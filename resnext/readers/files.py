"""The door for every file that a user names: regular files only, opened without blocking, of a
limited size.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from resnext.errors import BadArtifact, BadInput

MIB = 1 << 20
#: Largest file of each kind, bytes.
MOST_JSON = 64 * MIB
MOST_PICTURE = 512 * MIB
#: Protobuf's own limit.
MOST_ONNX = (1 << 31) - 1
#: Checkpoints, engines, packages, IR.
MOST_MODEL = 1 << 33


def open_file(
    path: Path | str, most: int, error: type[BadInput] = BadInput, *, least: int = 1
) -> BinaryIO:
    """Open a regular file for reading; the caller closes it.

    Args:
        path: the file, or a link to it.
        most: largest size that is accepted, bytes.
        error: class of the error.
        least: smallest size that is accepted, bytes. Files of the system that can be read without
            an end have 0.

    Raises:
        BadInput: ``path`` is missing, cannot be opened, is no regular file (a folder, FIFO, socket
            or device, also through a link), or is not of an accepted size.
    """
    sizes = range(least, most + 1)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as exc:  # ValueError: a name with a zero byte
        raise error(f"cannot read {path}: {_reason(exc)}") from exc
    _check(path, status, sizes, error)  # before it is opened: that alone can have effects
    try:
        file = open(path, "rb", opener=_open)  # noqa: SIM115  # the caller closes it
    except OSError as exc:
        raise error(f"cannot read {path}: {_reason(exc)}") from exc
    try:
        _check(path, os.fstat(file.fileno()), sizes, error)
    except BaseException:
        file.close()
        raise
    return file


def read_file(path: Path | str, most: int, error: type[BadInput] = BadInput) -> bytes:
    """The bytes of a regular file.

    Args:
        path: the file, or a link to it.
        most: largest size that is accepted, bytes.
        error: class of the error.

    Raises:
        BadInput: as `open_file`, or the file changes while it is read.
    """
    with open_file(path, most, error, least=0) as file:
        return read_all(file, path, error)


def read_all(file: BinaryIO, path: Path | str, error: type[BadInput] = BadInput) -> bytes:
    """The bytes of a file from `open_file`, exactly as many as it had when this began.

    Raises:
        BadInput: it cannot be read, or another process changes its size.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        data = file.read(size + 1)
    except OSError as exc:
        raise error(f"cannot read {path}: {_reason(exc)}") from exc
    if len(data or b"") != size:  # None: there is nothing without waiting
        raise error(f"cannot read {path}: its size changes as it is read")
    return data


def check_utf8(text: str | os.PathLike[str], title: str) -> None:
    """Check a path, or another text from a user, before any work.

    Manifests and reports are UTF-8, and so are the paths that the libraries open.

    Args:
        text: the path; what is no UTF-8 in it is escaped, as `os.fsdecode` does it.
        title: what the message calls it.

    Raises:
        BadInput: it is not UTF-8.
    """
    try:
        os.fspath(text).encode()
    except UnicodeEncodeError as exc:
        raise BadInput(f"{title} is not UTF-8: {text!s}", hint="rename it, or copy it") from exc


def exists(path: Path | str) -> bool:
    """Whether there is anything at ``path``, also a link to nowhere; false for impossible names."""
    return os.path.lexists(path)


def is_file(path: Path | str) -> bool:
    """Whether ``path`` is a regular file; unlike `Path.is_file`, false for impossible names."""
    return os.path.isfile(path)


def is_folder(path: Path | str) -> bool:
    """Whether ``path`` is a folder; unlike `Path.is_dir`, false for impossible names."""
    return os.path.isdir(path)


def _open(path: str, flags: int) -> int:
    """`os.open` that waits for no writer, and makes no terminal the process's own."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _check(path: Path | str, status: os.stat_result, sizes: range, error: type[BadInput]) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise error(f"cannot read {path}: it is {kind}, not a regular file")
    if status.st_size not in sizes:
        limit = f"at most {sizes[-1]} are accepted" if status.st_size else "it is empty"
        raise error(f"cannot read {path}: it has {status.st_size} bytes, {limit}")


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        BadArtifact: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_file(path, MOST_MODEL, BadArtifact, least=0) as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()
