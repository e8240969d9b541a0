"""Artifacts on disk: a file and its manifest in one folder, written whole and read strictly."""

from __future__ import annotations

import errno
import glob
import hashlib
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from resnext.errors import BadArtifact, BadInput, MissingRequirement, UsageError
from resnext.readers.files import MOST_JSON, MOST_MODEL, exists, is_file, open_file, read_file

from .manifest import MANIFEST_NAME, Manifest, read_manifest
from .signature import SIGNATURE_NAME
from .trust import Trust, check_trust, current_trust

#: What was proven of the artifact, and the same as a signed statement.
VERDICT_NAME = "verdict.json"
STATEMENT_NAME = "verdict.intoto.json"
#: Files that may be in an artifact's folder besides the manifest and what it describes. They go
#: when the artifact is replaced.
COMPANIONS = frozenset({VERDICT_NAME, STATEMENT_NAME, SIGNATURE_NAME})

_CHUNK_BYTES = 1 << 20
_ELSEWHERE = "choose another `output`"


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
        """The file, for messages: what a runtime loads comes from `read` or `copy_to`."""
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
            size = file.readinto(memory)  # type: ignore[attr-defined]  # buffered
        self._check(hashlib.sha256(memory).hexdigest() if size == len(memory) else "")
        return memory

    def copy_to(self, folder: Path) -> Path:
        """Copy the file into ``folder``, for libraries that only load files by path; checked like
        `read`.

        Args:
            folder: a folder that no other user can write to.

        Raises:
            BadArtifact: the file was replaced or altered after `read_artifact`.
            MissingRequirement: the copy cannot be written.
        """
        copy = folder / self.manifest.file
        try:
            with copy.open("xb") as file:
                self._check(self._digest(file.write))
        except OSError as exc:
            raise MissingRequirement(
                f"cannot copy {self.path} to {folder}: {exc.strerror or exc}",
                hint="set TMPDIR to a folder with room",
            ) from exc
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
    if artifact.path.is_symlink() or not is_file(artifact.path):
        raise BadArtifact(
            f"{artifact.path} is missing or is not a plain file", hint="export the artifact again"
        )
    artifact.check_file()
    check_trust(directory, manifest, current_trust() if trust is None else trust)
    return artifact


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        BadArtifact: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_file(path, MOST_MODEL, BadArtifact, least=0) as file:
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
    with _disk_errors(directory):
        directory.absolute().parent.mkdir(parents=True, exist_ok=True)
        probe = _partial(directory)
        probe.mkdir()
        probe.rmdir()


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


@contextmanager
def staging(directory: Path, *, force: bool = False) -> Iterator[Path]:
    """A new folder beside ``directory`` that replaces it in one step when the block succeeds.

    After an error or interruption the new folder is removed and ``directory`` is unchanged.

    Raises:
        UsageError: see `check_destination`.
        MissingRequirement: the disk is full, or the folder cannot be written to.
    """
    check_destination(directory, force=force)
    partial = _partial(directory)
    _remove_stale(directory)
    with _disk_errors(directory):
        partial.mkdir()
        try:
            yield partial
            for file in partial.iterdir():
                _fsync(file)
            _fsync(partial)
            _publish(partial, directory, force=force)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def seal(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``folder``, beside the file that it describes."""
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def _publish(partial: Path, directory: Path, *, force: bool) -> None:
    old = partial.with_name(partial.name + ".old")
    replaced = directory.is_dir() and any(directory.iterdir())
    if replaced and not force:
        raise UsageError(
            f"another process wrote to {directory} in the meantime; nothing was replaced"
        )
    if directory.is_dir() and not replaced:
        directory.rmdir()
    if replaced:
        directory.rename(old)
    try:
        partial.rename(directory)
    except BaseException:
        if replaced:
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _fsync(directory.absolute().parent)


def _partial(directory: Path) -> Path:
    directory = directory.absolute()
    return directory.with_name(f".{directory.name}.partial-{os.getpid()}")


def _remove_stale(directory: Path) -> None:
    """Remove partial folders of killed processes; those of live processes stay."""
    directory = directory.absolute()
    for partial in directory.parent.glob(f".{glob.escape(directory.name)}.partial-*"):
        pid = partial.name.rpartition("-")[2].removesuffix(".old")
        if partial.name.endswith(".old") and not directory.exists():
            continue  # killed between two renames: this is the only copy of the old artifact
        if pid.isdigit() and (int(pid) == os.getpid() or not Path(f"/proc/{pid}").exists()):
            shutil.rmtree(partial, ignore_errors=True)


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
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MissingRequirement(
                f"the disk has no room for {directory} ({exc.strerror})",
                hint=f"free some space, or {_ELSEWHERE}. Nothing was written",
            ) from exc
        raise MissingRequirement(
            f"cannot write to {directory}: {exc.strerror or exc}", hint=_ELSEWHERE
        ) from exc
