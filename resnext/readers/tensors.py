"""The header of a .safetensors file, checked before the library reads the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, BinaryIO

from .files import MIB
from .strict_json import parse_json

#: Largest header; that of ResNeXt-101 has 70 kB.
_MOST_HEADER = 16 * MIB
#: Bits of each element type.
_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
}


def read_tensor_header(file: BinaryIO, size: int) -> dict[str, str]:
    """Check the header of a .safetensors file; returns its metadata.

    Args:
        file: the file, at its start.
        size: of the file, bytes.

    Raises:
        ValueError: the header is too large or is not strict JSON; a tensor has an unknown element
            type, another size than its shape says, or lies outside the file; tensors overlap or
            leave bytes between them. The message is one line.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MOST_HEADER, size - 8):
        raise ValueError(f"its header cannot have {length} bytes")
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not texts")
    end = 0
    for name, (start, stop) in sorted(
        ((name, _offsets(name, entry)) for name, entry in header.items()), key=lambda item: item[1]
    ):
        if start != end:
            raise ValueError(f"the tensor {name[:80]!r} does not begin where the last one ends")
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"its tensors have {end} bytes, the file has {size - 8 - length} for them")
    return metadata


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    """Start and end of a tensor's bytes, after a check of its entry."""
    named = f"the tensor {name[:80]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{named} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{named} has an unknown element type")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{named} has sizes or offsets that are not whole numbers of 0 or more")
    start, stop = offsets
    if stop - start != math.prod(shape) * _BITS[dtype] // 8:
        raise ValueError(f"{named} does not have the bytes that its shape says")
    return start, stop


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
