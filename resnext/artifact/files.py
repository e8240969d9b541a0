"""Artifacts on disk: a file and its manifest in one folder, written whole and read strictly."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import io
import mmap
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from resnext.errors import BadArtifact, BadInput, MissingRequirement, UsageError
from resnext.readers.files import (
    MOST_JSON,
    MOST_MODEL,
    check_utf8,
    exists,
    is_file,
    open_file,
    read_file,
)
from resnext.storage import cache_folder, left_behind, partial_prefix, work_folder

from .manifest import MANIFEST_NAME, Manifest, read_manifest
from .signature import SIGNATURE_NAME
from .trust import Trust, check_trust, current_trust

#: What was proven of the artifact, and the same as a signed statement.
VERDICT_NAME = "verdict.json"
STATEMENT_NAME = "verdict.intoto.json"
#: Odd pictures with their pixels and logits (`resnext.verify.conformance`).
KIT_NAME = "conformance-kit.zip"
#: The search that chose the artifact, and the same as a page.
SEARCH_NAMES = ("tune.json", "tune.html")
#: Files that may be in an artifact's folder besides the manifest and what it describes. They go
#: when the artifact is replaced.
COMPANIONS = frozenset({VERDICT_NAME, STATEMENT_NAME, SIGNATURE_NAME, KIT_NAME, *SEARCH_NAMES})

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
        content: the file's bytes, of a bare ONNX file (`resnext.artifact.foreign.adopt`): tensors
            that lie beside it are in them.
    """

    directory: Path
    manifest: Manifest
    content: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def bare(self) -> bool:
        """Whether it is a file without a manifest beside it."""
        return self.content is not None

    @property
    def path(self) -> Path:
        """The file, for messages: what a runtime loads comes from `read` or `copy_to`."""
        if self.bare:  # whose name may be one that no manifest has
            return Path(self.manifest.weights.source)
        return self.directory / self.manifest.file

    def read(self) -> bytes:
        """The bytes of the file, checked as they are read: what is loaded is what was checked.

        Raises:
            BadArtifact: the file was replaced or altered after `read_artifact`.
        """
        with self._opened() as file:
            data = file.read(self.manifest.file_size_bytes + 1)
        self._check(hashlib.sha256(data).hexdigest())
        return data

    def read_writable(self) -> mmap.mmap:
        """As `read`, in writable memory that the caller owns; changes do not reach the file.

        Raises:
            BadArtifact: the file was replaced or altered after `read_artifact`.
        """
        with self._opened() as file:
            memory = mmap.mmap(-1, self.manifest.file_size_bytes)
            size = file.readinto(memory)  # type: ignore[attr-defined]  # buffered, or in memory
        self._check(hashlib.sha256(memory).hexdigest() if size == len(memory) else "")
        return memory

    def copy_to(self, folder: Path) -> Path:
        """Copy the file into ``folder``, for libraries that only load files by path; checked like
        `read`.

        Args:
            folder: a temporary one that no other user can write to.

        Raises:
            BadArtifact: the file was replaced or altered after `read_artifact`.
            MissingRequirement: the copy cannot be written.
        """
        try:
            return self.write_to(folder)
        except OSError as exc:
            raise MissingRequirement(
                f"cannot copy {self.path} to {folder}: {exc.strerror or exc}",
                hint="set TMPDIR to a folder with room",
            ) from exc

    def write_to(self, folder: Path) -> Path:
        """As `copy_to`, into a folder of `staging`, which says what to do if that fails.

        Raises:
            BadArtifact: the file was replaced or altered after `read_artifact`.
            OSError: the copy cannot be written.
        """
        copy = folder / self.manifest.file
        with copy.open("xb") as file:
            self._check(self._digest(file.write))
        return copy

    def check_file(self) -> None:
        """Check the file on disk, without keeping its bytes.

        Raises:
            BadArtifact: the size or digest of the file is not that of the manifest.
        """
        self._check(self._digest(lambda _: None))

    def _digest(self, write: Callable[[bytes], object]) -> str:
        """SHA-256 of the file, in hex; passes its bytes to ``write``."""
        digest, left = hashlib.sha256(), self.manifest.file_size_bytes + 1
        with self._opened() as file:
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                digest.update(chunk)
                write(chunk)
                left -= len(chunk)
        return digest.hexdigest()

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        expected = self.manifest.file_size_bytes
        if self.content is not None:
            yield io.BytesIO(self.content)
            return
        with open_file(self.path, MOST_MODEL, BadArtifact, least=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected:
                raise BadArtifact(
                    f"{self.path} has {size} bytes, its manifest says {expected}: truncated or"
                    " altered",
                    hint="export the artifact again",
                )
            yield file

    def _check(self, sha256: str) -> None:
        if sha256 != self.manifest.file_sha256:
            raise BadArtifact(
                f"{self.path} does not have the sha256 of its manifest: altered",
                hint="export it again",
            )


def read_artifact(path: Path, *, trust: Trust | None = None) -> Artifact:
    """Read and check the artifact at ``path``, which is its folder, its manifest or its file.

    Args:
        path: the artifact.
        trust: whose artifacts may be opened; None means what `trusting` or the environment says.

    Raises:
        BadArtifact: there is none, its manifest is not valid, the size or digest of the file does
            not match the manifest, or ``trust`` refuses it.
    """
    if not exists(path):
        _put_back(path)
    if not exists(path):
        raise BadArtifact(
            f"no artifact at {path}", hint="export one first, with this folder as its `output`"
        )
    directory = path if path.is_dir() else path.parent
    manifest = read_manifest(directory / MANIFEST_NAME)
    artifact = Artifact(directory, manifest)
    if manifest.file in {MANIFEST_NAME, *COMPANIONS}:  # which are written and removed
        raise BadArtifact(
            f"{directory / MANIFEST_NAME} describes {manifest.file}, which is the name of another"
            " file of an artifact",
            hint="export the artifact again",
        )
    if path.is_file() and path.name not in (MANIFEST_NAME, manifest.file):
        raise BadArtifact(
            f"{path} is not the file that {directory / MANIFEST_NAME} describes ({manifest.file})"
        )
    if artifact.path.is_symlink() or not is_file(artifact.path):
        raise BadArtifact(
            f"{artifact.path} is missing or is not a plain file", hint="export the artifact again"
        )
    artifact.check_file()
    check_trust(directory, manifest, current_trust() if trust is None else trust)
    return artifact


@dataclass(frozen=True)
class Replaceable:
    """What `staging` writes and, by request, replaces; anything else stays.

    Attributes:
        title: what to call it in messages.
        fits: whether a folder, with the names of all that is in it, is one.
    """

    title: str
    fits: Callable[[Path, list[str]], bool]


def _is_artifact_folder(directory: Path, names: list[str]) -> bool:
    if MANIFEST_NAME not in names:
        return False
    try:
        text = read_file(directory / MANIFEST_NAME, MOST_JSON).decode("utf-8", "replace")
    except BadInput:
        return False
    match = re.search(r'"file":\s*"([^"/]+)"', text)
    ours = match is not None and '"format_version"' in text and '"file_sha256"' in text
    return ours and set(names) <= {MANIFEST_NAME, *COMPANIONS, *(match.groups() if match else ())}


_ARTIFACT = Replaceable("an artifact", _is_artifact_folder)


def check_destination(
    directory: Path, *, force: bool | None, kind: Replaceable = _ARTIFACT
) -> None:
    """Check before any work that an artifact may be written to ``directory``.

    Args:
        directory: the folder.
        force: replace an artifact that is there; None if who asks has no such option.
        kind: what is written, if it is no artifact.

    Raises:
        UsageError: the folder is not empty and ``force`` is off, or it is not an artifact, which is
            never replaced.
        BadInput: its name is too long, or not UTF-8.
        MissingRequirement: the parent folder cannot be created or written to.
    """
    check_utf8(directory, "the value of `output`")
    _put_back(directory)
    if os.path.lexists(directory):
        if not directory.is_dir() or directory.is_symlink():
            raise UsageError(f"{directory} is not a folder", hint=_ELSEWHERE)
        names = sorted(entry.name for entry in directory.iterdir())
        if names and not kind.fits(directory, names):
            raise UsageError(
                f"{directory} is not empty: it holds other files besides {kind.title}",
                hint=_ELSEWHERE,
            )
        if names and not force:
            replace = "set `force` to replace it, or " if force is False else ""
            raise UsageError(f"{directory} is not empty", hint=replace + _ELSEWHERE)
    with _disk_errors(directory), _partial(directory):
        pass


@contextmanager
def staging(
    directory: Path, *, force: bool = False, kind: Replaceable = _ARTIFACT
) -> Iterator[Path]:
    """A new folder beside ``directory`` that replaces it in one step when the block succeeds.

    After an error or interruption the new folder is removed and ``directory`` is unchanged.

    Raises:
        UsageError: see `check_destination`.
        MissingRequirement: the disk is full, or the folder cannot be written to.
    """
    check_destination(directory, force=force, kind=kind)
    with _disk_errors(directory), _partial(directory) as work:
        new = work / _NEW
        new.mkdir()
        yield new
        for path in new.rglob("*"):
            _fsync(path)
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
        kind = BadInput if exc.errno == errno.ENAMETOOLONG else MissingRequirement
        raise kind(f"cannot write to {directory}: {exc.strerror or exc}", hint=elsewhere) from exc
