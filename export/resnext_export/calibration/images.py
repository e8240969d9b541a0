"""Images to calibrate with, and the equal batches that they are run in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from resnext.errors import BadInput

if TYPE_CHECKING:
    from resnext.images.sources import ImageSource

#: Input values per run: six images of 3 x 224 x 224, whose activations take 0.7 GB.
BATCH_VALUES = 2**20
_READ_IMAGES = 32


@dataclass(frozen=True)
class Source:
    """Images to calibrate with.

    Attributes:
        name: human-readable name.
        sha256: digest of the images, in order.
        images: number of images.
        batches: opens them: batches as the graph's input takes them, of any size.
    """

    name: str
    sha256: str
    images: int
    batches: Callable[[], Iterable[NDArray[Any]]]

    @classmethod
    def of(cls, name: str, images: NDArray[Any]) -> Source:
        """``images`` that are already in memory, N x C x H x W."""
        digest = hashlib.sha256(f"{images.dtype.str} {images.shape} ".encode())
        digest.update(np.ascontiguousarray(images).data)
        return cls(name, digest.hexdigest(), len(images), lambda: (images,))

    @classmethod
    def of_images(cls, images: ImageSource, *, baked: bool = False) -> Source:
        """``images``, read lazily: normalized, or as pixels for a graph that normalizes them."""

        def batches() -> Iterator[NDArray[Any]]:
            for start in range(0, len(images), _READ_IMAGES):
                pixels = images.pixels(start, min(start + _READ_IMAGES, len(images)))
                yield pixels if baked else images.preprocessing.normalize(pixels)

        return cls(images.name, images.digest, len(images), batches)


def equal_batches(
    images: Iterable[NDArray[Any]], graph_input: onnx.ValueInfoProto, path: Path
) -> Iterator[NDArray[Any]]:
    """Regroup ``images`` into batches of one size; the last may be smaller.

    Args:
        images: batches of any size.
        graph_input: the input that takes them; a fixed batch sets the size.
        path: the ONNX file, for messages.

    Raises:
        BadInput: a batch of another shape or dtype, or images left over by a fixed batch.
    """
    dtype = helper.tensor_dtype_to_np_dtype(graph_input.type.tensor_type.elem_type)
    fixed, *shape = (dim.dim_value or None for dim in graph_input.type.tensor_type.shape.dim)
    rest: NDArray[Any] | None = None
    for batch in images:
        fits = batch.ndim == len(shape) + 1 and all(
            expected in (None, actual)
            for expected, actual in zip(shape, batch.shape[1:], strict=True)
        )
        if batch.dtype != dtype or not fits:
            expected_shape = " x ".join(["N", *(str(size or "any") for size in shape)])
            raise BadInput(
                f"{path} takes {dtype} images of shape {expected_shape}; got {batch.dtype} of"
                f" shape {batch.shape}"
            )
        rest = batch if rest is None else np.concatenate([rest, batch])
        size = fixed or int(np.clip(BATCH_VALUES // max(1, int(np.prod(batch.shape[1:]))), 1, 64))
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest is not None and len(rest):
        if fixed is not None:
            raise BadInput(
                f"{path} takes batches of {fixed}, and {len(rest)} images are left over",
                hint="give a multiple",
            )
        yield rest
