"""A shared library of Linux (ELF), checked before it is loaded.

A library that ends too early is mapped beyond its file, and the process dies of a signal.
"""

from __future__ import annotations

import mmap
import struct

#: The header of a 64-bit little-endian file, and its tables' entries: offset and size of the data.
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SHARED, _NO_BITS = 3, 8
_DYNAMIC, _NEEDED = 6, 1


def check_library(data: bytes) -> None:
    """Check that ``data`` is a whole shared library.

    Raises:
        ValueError: it is none, or parts of it are outside ``data``; the message continues a
            sentence about the library.
    """
    if len(data) < _HEADER.size or not data.startswith(b"\x7fELF\2\1\1"):
        raise ValueError("is not a library of Linux")
    _, kind, *_, segments_at, sections_at, _, _, segment, segments, section, sections, _ = (
        _HEADER.unpack_from(data)
    )
    if kind != _SHARED:
        raise ValueError("is not a shared library")
    tables = (
        (segments_at, segment, segments, _SEGMENT),
        (sections_at, section, sections, _SECTION),
    )
    for start, size, count, entry in tables:
        if count and (size != entry.size or start + count * size > len(data)):
            raise ValueError("is cut short")
    for index in range(segments):
        _, _, offset, _, _, stored, *_ = _SEGMENT.unpack_from(data, segments_at + index * segment)
        if offset + stored > len(data):
            raise ValueError("is cut short")
    for index in range(sections):
        _, kind, _, _, offset, stored, *_ = _SECTION.unpack_from(
            data, sections_at + index * section
        )
        if kind != _NO_BITS and offset + stored > len(data):
            raise ValueError("is cut short")


def needed_libraries(data: bytes | mmap.mmap) -> tuple[str, ...]:
    """Names of the libraries that the dynamic loader must find for ``data``.

    Raises:
        ValueError: ``data`` is no whole library, or its table of names is damaged.
    """
    if len(data) < _HEADER.size or not data[:7] == b"\x7fELF\2\1\1":
        raise ValueError("is not a library of Linux")
    sections_at, section, sections = (_HEADER.unpack_from(data)[at] for at in (6, 11, 12))
    if section != _SECTION.size or sections_at + sections * section > len(data):
        raise ValueError("is cut short")
    table = [_SECTION.unpack_from(data, sections_at + at * section) for at in range(sections)]
    for _, kind, _, _, offset, size, link, *_ in table:
        if kind != _DYNAMIC or link >= sections:
            continue
        names_at, names_size = table[link][4:6]
        if max(offset + size, names_at + names_size) > len(data):
            raise ValueError("is cut short")
        names = data[names_at : names_at + names_size]
        entries = struct.iter_unpack("<qQ", data[offset : offset + size - size % 16])
        return tuple(
            names[value : names.find(b"\0", value)].decode("ascii", "replace")
            for tag, value in entries
            if tag == _NEEDED
        )
    raise ValueError("has no dynamic section")
