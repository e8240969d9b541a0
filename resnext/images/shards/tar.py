"""A tar file as a shard, in WebDataset's naming: ``KEY.jpg``, and its label in ``KEY.cls`` or
``KEY.json`` beside it. Members with the same key are a sample.

Nothing is extracted, so no member's name is ever a path; members are read by their place in the
file. Archives are not compressed: pictures are already, and a compressed archive cannot be read by
several threads.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeAlias

from resnext.errors import BadInput, first_line
from resnext.readers.files import MIB, MOST_PICTURE, open_file
from resnext.readers.strict_json import parse_json

from .folder import SUFFIXES, file_status
from .shard import Label, Picture, Shard, plain

#: Largest tar file, bytes; those of data sets have about 1 GB.
MOST_TAR = 1 << 40
#: Largest member with a label, and largest header with a long name, bytes.
_MOST_LABEL = MIB
_MOST_HEADER = MIB
#: What a member is if not a regular file, and the offset and number of its bytes.
_Place: TypeAlias = tuple[str, int, int]
#: Longest label that is a name, characters.
_MOST_NAME = 1000
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True)
class TarShard(Shard):
    """One tar file.

    Attributes:
        path: the file.
        name: its path relative to the input.
        size: bytes.
        changed: time of its last change, ns.
    """

    path: Path
    name: str
    size: int
    changed: int
    pictures_known = None

    @property
    def weight(self) -> int:  # type: ignore[override]  # an attribute for its callers
        """Bytes."""
        return self.size

    def listing(self) -> Iterable[str]:
        """Size and time of the file: reading the names of its members would take a pass over it."""
        return (f"{self.size} {self.changed}",)

    def pictures(self) -> Iterator[Picture]:
        """In the order of the archive; a last one that cannot be loaded if the archive is cut."""
        with self._open() as file:
            key, some, broken = "", list[tuple[str, _Place]](), ""
            labels = dict[str, Label]()
            try:
                for member in self._members(file):
                    stem, name, suffix = _split(member.name)
                    if not stem or stem.endswith("/"):  # hidden
                        continue
                    if stem != key:
                        yield from self._sample(key, some, labels)
                        key, some, labels = stem, [], {}
                    if suffix in SUFFIXES:
                        some.append((member.name, _place(member)))
                    elif (
                        suffix in (".cls", ".json")
                        and member.isreg()
                        and (labels.get(name) is None)
                    ):
                        labels[name] = self._label(member, suffix)
            except (tarfile.TarError, OSError, ValueError, OverflowError) as exc:
                broken = first_line(exc)
            yield from self._sample(key, some, labels)
            if broken:  # what follows is lost, and how much that is nobody knows
                yield self._broken(f"{self.name} is cut short or damaged: {broken}")

    def _members(self, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all
                yield member
            # `tarfile` takes half a header, and one that is none, for the end.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no header and no end at byte {archive.offset}")

    def _sample(
        self, key: str, members: list[tuple[str, _Place]], labels: dict[str, Label]
    ) -> Iterator[Picture]:
        """The pictures of one sample.

        Beside ``KEY.jpg``, ``KEY.mask.png`` is no picture of its own. Without one it is: there are
        several views, or the key that was meant has dots in it.
        """
        whole = [it for it in members if it[0].rpartition(".")[0] == key]
        for name, place in whole or members:
            own = labels.get(name.rpartition(".")[0])
            yield Picture(
                plain(name),
                labels.get(key) if own is None else own,
                max(0, place[2]),
                partial(self._bytes, plain(name), *place),
            )

    def _bytes(self, key: str, kind: str, offset: int, size: int) -> bytes:
        name = f"{key} in {self.name}"
        if kind:
            raise BadInput(f"cannot read {name}: it is {kind}, not a regular file")
        if not 1 <= size <= MOST_PICTURE:
            limit = f"at most {MOST_PICTURE} are accepted" if size else "it is empty"
            raise BadInput(f"cannot read {name}: it has {size} bytes, {limit}")
        with self._open() as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise BadInput(f"cannot read {name}: the archive is cut short")
        return data

    def _label(self, member: tarfile.TarInfo, suffix: str) -> Label:
        if member.size > _MOST_LABEL:
            return None
        try:
            data = self._bytes(plain(member.name), *_place(member))
            value = parse_json(data) if suffix == ".json" else data.decode().strip()
        except (BadInput, ValueError):
            return None
        if isinstance(value, dict):
            value = value.get("label", value.get("cls"))
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
        if type(value) is int or (isinstance(value, str) and 0 < len(value) <= _MOST_NAME):
            return value
        return None

    def _open(self) -> BinaryIO:
        file = open_file(self.path, MOST_TAR)
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self.changed):
            file.close()
            raise BadInput(f"{self.path} changed since this began", hint="start again")
        return file

    def _broken(self, reason: str) -> Picture:
        def refuse() -> NoReturn:
            raise BadInput(reason)

        return Picture(plain(self.name), None, 0, refuse)


def tar_shards(path: Path, name: str) -> Iterator[TarShard]:
    """The one shard of a tar file.

    Raises:
        BadInput: there is none at ``path``.
    """
    yield TarShard(path, name, *file_status(path))


class _Member(tarfile.TarInfo):
    """A member whose header asks for no more than a header needs."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _HEADERS and self.size > _MOST_HEADER):
            raise tarfile.ReadError(f"a header of {self.size} bytes at byte {self.offset}")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # the hook of subclasses
        if member.size < 0:
            raise tarfile.ReadError(f"a member of {member.size} bytes at byte {self.offset}")
        return member


def _place(member: tarfile.TarInfo) -> _Place:
    kind = "" if member.isreg() and not member.issparse() else "a link, folder, device or sparse"
    return kind, member.offset_data, member.size


def _split(name: str) -> tuple[str, str, str]:
    """WebDataset's key, which ends before the first dot of the last part; and the name before and
    after its last dot.
    """
    folder, slash, last = name.rpartition("/")
    rest, dot, suffix = name.rpartition(".")
    return folder + slash + last.partition(".")[0], rest, (dot + suffix).lower()
