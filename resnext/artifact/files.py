"""Artifacts on disk: a file and its manifest in one folder, written whole and read strictly."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from resnext.errors import BadArtifact, MissingRequirement, UsageError
from resnext.storage import cache_folder, left_behind, partial_prefix, work_folder

from .manifest import MANIFEST_NAME, Manifest, read_manifest

_CHUNK_BYTES = 1 << 20
_ELSEWHERE = "choose another `output`"
#: Names in a work folder: the new artifact, and the one that it replaces.
_NEW, _OLD = "artifact.new", "artifact.old"
#: Arguments of Linux's renameat2: relative to the current folder; exchange both names.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True)
class Artifact:
    """A checked artifact on disk.

    Attributes:
        directory: folder with the file and its manifest.
        manifest: the manifest; its digest matched the file when the artifact was read.
    """

    directory: Path
    manifest: Manifest

    @property
    def path(self) -> Path:
        """The file that a runtime loads."""
        return self.directory / self.manifest.file


def read_artifact(path: Path) -> Artifact:
    """Read and check the artifact at ``path``, which is its folder, its manifest or its file.

    Raises:
        BadArtifact: there is none, its manifest is not valid, or the size or digest of the file
            does not match the manifest.
    """
    if not path.exists():
        _put_back(path)
    if not path.exists():
        raise BadArtifact(
            f"no artifact at {path}", hint="export one first, with this folder as its `output`"
        )
    directory = path if path.is_dir() else path.parent
    manifest = read_manifest(directory / MANIFEST_NAME)
    artifact = Artifact(directory, manifest)
    if path.is_file() and path.name not in (MANIFEST_NAME, manifest.file):
        raise BadArtifact(
            f"{path} is not the file that {directory / MANIFEST_NAME} describes ({manifest.file})"
        )
    if artifact.path.is_symlink() or not artifact.path.is_file():
        raise BadArtifact(
            f"{artifact.path} is missing or is not a plain file", hint="export the artifact again"
        )
    size = artifact.path.stat().st_size
    if size != manifest.file_size_bytes:
        raise BadArtifact(
            f"{artifact.path} has {size} bytes, its manifest says {manifest.file_size_bytes}: "
            "truncated or altered",
            hint="export the artifact again",
        )
    if file_sha256(artifact.path) != manifest.file_sha256:
        raise BadArtifact(
            f"{artifact.path} does not have the sha256 of its manifest: altered",
            hint="export it again",
        )
    return artifact


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_destination(directory: Path, *, force: bool) -> None:
    """Check before any work that an artifact may be written to ``directory``.

    Raises:
        UsageError: the folder is not empty and ``force`` is off, or it is not an artifact, which is
            never replaced.
        MissingRequirement: the parent folder cannot be created or written to.
    """
    _put_back(directory)
    if os.path.lexists(directory):
        if not directory.is_dir() or directory.is_symlink():
            raise UsageError(f"{directory} is not a folder", hint=_ELSEWHERE)
        names = sorted(entry.name for entry in directory.iterdir())
        if names and not force:
            raise UsageError(
                f"{directory} is not empty", hint=f"set `force` to replace it, or {_ELSEWHERE}"
            )
        if names and not _is_artifact_folder(directory, names):
            raise UsageError(f"{directory} holds other files besides an artifact", hint=_ELSEWHERE)
    with _disk_errors(directory), _partial(directory):
        pass


def _is_artifact_folder(directory: Path, names: list[str]) -> bool:
    if MANIFEST_NAME not in names:
        return False
    text = (directory / MANIFEST_NAME).read_text("utf-8", "replace")
    match = re.search(r'"file":\s*"([^"/]+)"', text)
    ours = match is not None and '"format_version"' in text and '"file_sha256"' in text
    return ours and set(names) <= {MANIFEST_NAME, *(match.groups() if match else ())}


@contextmanager
def staging(directory: Path, *, force: bool = False) -> Iterator[Path]:
    """A new folder beside ``directory`` that replaces it in one step when the block succeeds.

    After an error or interruption the new folder is removed and ``directory`` is unchanged.

    Raises:
        UsageError: see `check_destination`.
        MissingRequirement: the disk is full, or the folder cannot be written to.
    """
    check_destination(directory, force=force)
    with _disk_errors(directory), _partial(directory) as work:
        new = work / _NEW
        new.mkdir()
        yield new
        for file in new.iterdir():
            _fsync(file)
        _fsync(new)
        _publish(new, directory, force=force)


def seal(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``folder``, beside the file that it describes."""
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def _publish(new: Path, directory: Path, *, force: bool) -> None:
    replaced = directory.is_dir() and any(directory.iterdir())
    if replaced and not force:
        raise UsageError(
            f"another process wrote to {directory} in the meantime; nothing was replaced"
        )
    if not replaced:
        new.rename(directory)
    elif not _exchange(new, directory):
        old = new.with_name(_OLD)
        directory.rename(old)
        try:
            new.rename(directory)
        except BaseException:
            old.rename(directory)
            raise
    _fsync(directory.absolute().parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, so that ``other`` is there at any moment; False if the system
    or the file system has no such step.
    """
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return bool(renameat2(*names, _RENAME_EXCHANGE) == 0)


def _partial(directory: Path) -> AbstractContextManager[Path]:
    """A work folder beside ``directory``, on the same disk."""
    directory = directory.absolute()
    return work_folder(directory.parent, partial_prefix(directory))


def _put_back(directory: Path) -> None:
    """Put an artifact back whose process was killed between the two renames that replace it."""
    directory = directory.absolute()
    if os.path.lexists(directory):
        return
    for work in directory.parent.glob(f"{glob.escape(partial_prefix(directory))}*"):
        with suppress(OSError), left_behind(work) as abandoned:
            if abandoned and (work / _OLD).is_dir():
                (work / _OLD).rename(directory)
                return


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    """Translate disk errors into one line with a hint."""
    try:
        yield
    except BadArtifact:
        raise
    except OSError as exc:
        cached = directory.is_relative_to(cache_folder())
        elsewhere = "set RESNEXT_CACHE_DIR to another folder" if cached else _ELSEWHERE
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MissingRequirement(
                f"the disk has no room for {directory} ({exc.strerror})",
                hint=f"free some space, or {elsewhere}. Nothing was written",
            ) from exc
        raise MissingRequirement(
            f"cannot write to {directory}: {exc.strerror or exc}", hint=elsewhere
        ) from exc
