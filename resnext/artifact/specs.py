"""Tensors and batch sizes that an artifact takes."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from resnext.errors import BadInput, UsageError

#: Element types that float32 images are cast to.
_FLOATS = ("float16", "bfloat16")


class Strict(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@functools.lru_cache(maxsize=64)
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The element type called ``name``; bfloat16, which NumPy lacks, comes from ml_dtypes.

    Raises:
        TypeError: no element type has that name.
    """
    if name == "bfloat16":
        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


class TensorSpec(Strict):
    """Name, element type and shape of one input or output.

    Attributes:
        name: tensor name in the graph.
        dtype: NumPy's name of the element type, for example ``float32``.
        shape: dimensions; None for a dynamic one (the batch), which takes any size of at least 1.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        try:
            return numpy_dtype(dtype).name
        except TypeError:
            raise ValueError(f"{dtype!r} is not NumPy's name of an element type") from None

    def cast(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cast float32 images to this input's floating-point type; leave other arrays alone."""
        if array.dtype != np.float32 or self.dtype not in _FLOATS:
            return array
        return array.astype(numpy_dtype(self.dtype))

    def check(self, array: NDArray[Any]) -> None:
        """Check one array against this spec.

        Raises:
            BadInput: wrong element type, rank or size; says what was got and what is allowed.
        """
        if array.dtype != numpy_dtype(self.dtype):
            raise BadInput(f"input {self.name!r} has dtype {array.dtype}, want {self.dtype}")
        actual = array.shape
        fits = len(actual) == len(self.shape)
        if fits:  # the plainest loop: every timed run goes through here
            for axis, want in enumerate(self.shape):
                if actual[axis] < 1 if want is None else actual[axis] != want:
                    fits = False
        if not fits:
            shape = "x".join("N" if size is None else str(size) for size in self.shape)
            got = "x".join(map(str, actual)) or "scalar"
            raise BadInput(f"input {self.name!r} has shape {got}, want {shape}")


class BatchRange(Strict):
    """Batch sizes that an artifact takes.

    Attributes:
        min: smallest.
        opt: the one that an engine is tuned for.
        max: largest; None for no limit.
    """

    min: int = Field(ge=1)
    opt: int = Field(ge=1)
    max: int | None = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> BatchRange:
        if self.opt < self.min or (self.max is not None and self.max < self.opt):
            raise ValueError("batch range must satisfy MIN <= OPT <= MAX")
        return self

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        """Read ``N`` (static), ``MIN:OPT`` (no upper limit) or ``MIN:OPT:MAX``.

        Raises:
            UsageError: malformed, below 1, or not in order.
        """
        parts = text.split(":")
        if len(parts) > 3 or not all(
            part.isascii() and part.isdigit() and len(part) <= 6 for part in parts
        ):
            raise UsageError(
                f"`batch` {text[:40]!r} is not N, MIN:OPT or MIN:OPT:MAX with whole numbers of at"
                " least 1"
            )
        sizes = [int(part) for part in parts]
        low, opt = sizes[0], sizes[min(1, len(sizes) - 1)]
        high = None if len(sizes) == 2 else sizes[-1]
        if not (1 <= low <= opt and (high is None or opt <= high)):
            raise UsageError(f"`batch` {text!r} must satisfy 1 <= MIN <= OPT <= MAX")
        return cls(min=low, opt=opt, max=high)

    @property
    def static(self) -> bool:
        """Only one batch size is taken."""
        return self.min == self.max

    def __contains__(self, batch: int) -> bool:
        return self.min <= batch and (self.max is None or batch <= self.max)

    def __str__(self) -> str:
        if self.static:
            return str(self.min)
        return f"{self.min}..{'any' if self.max is None else self.max}"
