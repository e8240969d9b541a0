"""Arrays in NumPy's .npy format, checked before any memory is asked for."""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


def read_array(file: BinaryIO) -> NDArray[Any]:
    """The array in a .npy file; the caller's own, in C order.

    Args:
        file: the file, at its start.

    Raises:
        ValueError: not a .npy file, of a type that is no number, or of another size than its header
            says. The message is one line.
    """
    try:
        major, _ = npy.read_magic(file)
        read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, in_columns, dtype = read(file)
    except Exception as exc:  # the header is Python's syntax, and damaged can raise many types
        raise ValueError(f"its header is not NumPy's: {str(exc).splitlines()[0][:200]}") from exc
    if dtype.hasobject or dtype.kind not in "buif":
        raise ValueError(f"its elements are {str(dtype)[:80]}, not numbers")
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    if size != math.prod(shape) * dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"it has {size} bytes for {' x '.join(map(str, shape))[:80]} of {dtype}")
    file.seek(start)
    flat = np.frombuffer(bytearray(file.read(size)), dtype)
    return np.ascontiguousarray(flat.reshape(shape, order="F" if in_columns else "C"))
