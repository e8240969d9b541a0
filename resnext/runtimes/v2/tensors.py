"""Tensors of the protocol: its names of element types, and arrays out of bytes and lists."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.specs import TensorSpec, numpy_dtype
from resnext.errors import SessionFailed

from .answers import Tensor

#: NumPy's names of element types, by the protocol's.
DTYPES = MappingProxyType(
    {
        "BOOL": "bool",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "FP16": "float16",
        "BF16": "bfloat16",
        "FP32": "float32",
        "FP64": "float64",
    }
)
_DATATYPES = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})


def datatype(array: NDArray[Any]) -> str:
    """The protocol's name of the element type of ``array``."""
    return _DATATYPES[array.dtype.name]


def described(tensor: Tensor | TensorSpec) -> str:
    """One line: name, element type, shape."""
    shape = tensor.shape
    sizes = "x".join("N" if size in (None, -1) else str(size) for size in shape) or "scalar"
    kind = tensor.dtype if isinstance(tensor, TensorSpec) else DTYPES.get(tensor.datatype)
    return f"{tensor.name!r} {kind or tensor.datatype} {sizes}"  # type: ignore[union-attr]


def array_of(
    name: str, kind: str, shape: Iterable[int], data: bytes | memoryview | list[Any], whose: str
) -> NDArray[Any]:
    """The array of an answer; the caller owns it.

    Args:
        name: of the output.
        kind: the protocol's name of its element type.
        shape: as the server says.
        data: its bytes, or its elements in rows or in one list.
        whose: the server, for messages.

    Raises:
        SessionFailed: type, shape and data do not belong together.
    """
    sizes = tuple(shape)
    if kind not in DTYPES:
        raise SessionFailed(f"{whose} sent output {name!r} as {kind[:40]}, which is no number")
    dtype = numpy_dtype(DTYPES[kind])
    try:
        if isinstance(data, list):
            flat = np.asarray(data, dtype=dtype)
        else:
            flat = np.frombuffer(data, dtype=dtype).copy()
        return flat.reshape(sizes)
    except (TypeError, ValueError, OverflowError) as exc:
        length = f"{len(data)} {'elements' if isinstance(data, list) else 'bytes'}"
        raise SessionFailed(
            f"{whose} sent output {name!r} as {dtype.name} of shape {sizes}, and {length} for it"
        ) from exc
