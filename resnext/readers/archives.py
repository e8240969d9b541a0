"""ZIP archives (.pt2, OpenVINO IR, .pth), checked as a whole before anything is taken out of them.

The formats store their entries uncompressed, one after the other. So sizes cannot lie, and every
reader of the archive sees the same entries.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

#: Where an entry of the directory has the offset of its data.
_OFFSET_AT = 42
_LOCAL = struct.Struct("<4s5H3I2H")
_CHUNK_BYTES = 1 << 20
#: Most entries; a package has about 10, a checkpoint one for each tensor.
_MOST_ENTRIES = 20_000
_LONGEST_NAME = 512
#: Not encrypted, and not patched; sizes after the data (bit 3) and UTF-8 names (bit 11) are fine.
_UTF8 = 1 << 11
_FLAGS = 1 << 3 | _UTF8


@dataclass(frozen=True)
class Entry:
    """The bytes of one entry, in the archive's file.

    Attributes:
        start: offset of the first byte.
        size: number of bytes.
    """

    start: int
    size: int


def read_entries(file: BinaryIO, *, any_folder: bool = False) -> Mapping[str, Entry]:
    """Check a whole archive, and return its entries by name.

    Args:
        file: the archive; its position is changed.
        any_folder: the first folder in a name may have any characters: `torch.save` calls it as the
            user calls the file, "12:30.pth" for example, and nothing is written under it.

    Raises:
        ValueError: not an archive; a name that is absolute, climbs, is repeated, or has a
            backslash, a drive or an unprintable character; a link or folder; an entry that is
            compressed, encrypted, overlaps another, or has another size, name or checksum than the
            archive's directory says; bytes before the first entry. The message is one line.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries, directory = archive.infolist(), archive.start_dir
            if archive.comment:
                raise ValueError("it has a comment")
    except (zipfile.BadZipFile, NotImplementedError, OSError, struct.error) as exc:
        raise ValueError(str(exc)) from exc
    if not 0 < len(entries) <= _MOST_ENTRIES:
        raise ValueError(f"it has {len(entries)} entries, 1 to {_MOST_ENTRIES} are accepted")
    # Where other readers look for the directory: if not here, the first offset in it is shifted.
    file.seek(directory + _OFFSET_AT)
    if int.from_bytes(file.read(4), "little") != entries[0].header_offset:
        raise ValueError("its directory is not at the place that it says")
    found: dict[str, Entry] = {}
    end = 0
    entries.sort(key=lambda entry: entry.header_offset)
    if entries[0].header_offset != 0:
        raise ValueError("it has bytes before its first entry")
    for entry in entries:
        name = entry.orig_filename
        _check_entry(entry, any_folder=any_folder)
        if name in found:
            raise ValueError(f"the entry {name!r} is repeated")
        found[name] = _located(file, entry, end, directory)
        end = found[name].start + entry.file_size
    return found


def take(file: BinaryIO, entry: Entry) -> bytes:
    """The bytes of one entry of `read_entries`."""
    file.seek(entry.start)
    return file.read(entry.size)


def _check_entry(entry: zipfile.ZipInfo, *, any_folder: bool) -> None:
    name, mode = entry.orig_filename, entry.external_attr >> 16
    parts = name.split("/")
    strict = name.partition("/")[2] if any_folder else name
    odd = not strict.isprintable() or {"\\", ":"} & set(strict) or {"", ".", ".."} & set(parts)
    if odd or len(name) > _LONGEST_NAME:
        raise ValueError(f"the entry name {name[:80]!r} is not accepted")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise ValueError(f"the entry {name!r} is a link or another special file")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ValueError(f"the entry {name!r} is compressed")
    if entry.flag_bits & ~_FLAGS:
        raise ValueError(f"the entry {name!r} is encrypted or of an unknown kind")


def _located(file: BinaryIO, entry: zipfile.ZipInfo, least: int, most: int) -> Entry:
    """Where the data of an entry is: not before ``least``, and within the ``most`` first bytes."""
    name = entry.orig_filename
    file.seek(entry.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) != _LOCAL.size:
        raise ValueError(f"the entry {name!r} is outside the file")
    magic, _, flags, method, *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    local_name = file.read(name_bytes)
    if magic != b"PK\3\4" or local_name != _raw(entry) or method != zipfile.ZIP_STORED:
        raise ValueError(f"the entry {name!r} is not the one that the directory says")
    if flags & ~_FLAGS:
        raise ValueError(f"the entry {name!r} is encrypted or of an unknown kind")
    start = entry.header_offset + _LOCAL.size + name_bytes + extra_bytes
    if entry.header_offset < least or start + entry.file_size > most:
        raise ValueError(f"the entry {name!r} overlaps another or ends outside the file")
    file.seek(start)
    left, checksum = entry.file_size, 0
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise ValueError(f"the entry {name!r} ends outside the file")
        checksum, left = zlib.crc32(chunk, checksum), left - len(chunk)
    if checksum != entry.CRC:
        raise ValueError(f"the entry {name!r} does not have its checksum: damaged")
    return Entry(start, entry.file_size)


def _raw(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437")
