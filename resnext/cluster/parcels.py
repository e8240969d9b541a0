"""A file or folder that workers elsewhere need, named by its digest and checked on arrival."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from resnext.errors import BadArtifact, BadInput, MissingRequirement
from resnext.readers.files import MOST_MODEL, open_file, read_file
from resnext.storage import cache_folder, locked, partial_prefix, remove, work_folder

#: Largest parcel whose bytes are sent, bytes; a larger one is read from a path that all share.
MOST_SENT = 256 << 20
#: Most files of a parcel: a folder of photos is no parcel.
_MOST_FILES = 100
_SINGLE = "."
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Parcel:
    """A file, or the files of a folder.

    Attributes:
        path: where it is on the machine that sends it, absolute.
        digest: sha256 of the names and digests of its files, in hexadecimal digits.
        size: bytes of all files.
    """

    path: str
    digest: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Parcel:
        """The parcel of a file or folder.

        Raises:
            BadInput: there is none, or a file cannot be read.
        """
        files = _files(path)
        size = sum(file.stat().st_size for file in files.values())
        return cls(str(path.resolve()), _digest(files), size)

    def check(self, path: Path) -> None:
        """Check that ``path`` has these bytes.

        Raises:
            BadArtifact: it has others.
        """
        if _digest(_files(path)) != self.digest:
            raise BadArtifact(
                f"{path} has changed: its digest is not {self.digest[:12]}",
                hint="restore it, or begin again with what it is now",
            )

    def contents(self) -> dict[str, bytes] | None:
        """Its files by name, to be sent; None if they are too large."""
        if self.size > MOST_SENT:
            return None
        return {name: read_file(file, MOST_MODEL) for name, file in _files(Path(self.path)).items()}

    def arrive(self, contents: Mapping[str, bytes] | None) -> Path:
        """Where it is on this machine, checked; written into the cache once, if it was sent.

        Raises:
            BadArtifact: these are other bytes.
            BadInput: it was not sent, and its path is not here.
            MissingRequirement: the cache cannot be written.
        """
        if contents is None:
            try:
                self.check(Path(self.path))
            except BadInput as exc:
                if isinstance(exc, BadArtifact):
                    raise
                raise BadInput(
                    f"cannot read {self.path} on this machine",
                    hint="keep it on a disk that all machines share; Ray sends what has at most"
                    " 256 MiB",
                ) from exc
            return Path(self.path)
        kept = cache_folder() / "parcels" / self.digest
        name = PurePosixPath(self.path).name
        with locked(kept.parent / f"{self.digest}.lock"):
            arrived = kept / name
            try:
                self.check(arrived)
            except BadInput:  # not there yet, or damaged since
                remove(kept)
                try:
                    self._write(kept, name, contents)
                except OSError as exc:
                    raise MissingRequirement(
                        f"cannot write {kept}: {exc.strerror}",
                        hint="make room, or set RESNEXT_CACHE_DIR to another folder",
                    ) from exc
        return arrived

    def _write(self, kept: Path, name: str, contents: Mapping[str, bytes]) -> None:
        with work_folder(kept.parent, partial_prefix(kept)) as folder:
            whole = folder / "whole"
            for part, data in contents.items():
                target = whole / name if part == _SINGLE else whole / name / part
                if not target.resolve().is_relative_to((whole / name).resolve()):
                    raise BadArtifact(f"a parcel has a file outside of it: {part!r}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            self.check(whole / name)
            whole.replace(kept)


def _files(path: Path) -> dict[str, Path]:
    if path.is_dir():
        found = {
            file.relative_to(path).as_posix(): file
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
        if not 0 < len(found) <= _MOST_FILES:
            raise BadInput(f"{path} has {len(found)} files; an artifact has 1 to {_MOST_FILES}")
        return found
    return {_SINGLE: path}


def _digest(files: Mapping[str, Path]) -> str:
    whole = hashlib.sha256()
    for name, file in files.items():
        part = hashlib.sha256()
        with open_file(file, MOST_MODEL, least=0) as stream:
            while chunk := stream.read(_READ_BYTES):
                part.update(chunk)
        whole.update(f"{part.hexdigest()} {name}\n".encode())
    return whole.hexdigest()
