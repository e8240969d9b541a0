"""Batch sizes that an artifact takes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from resnext.errors import UsageError


class BatchRange(BaseModel):
    """Batch sizes that an artifact takes.

    Attributes:
        min: smallest.
        opt: the one that an engine is tuned for.
        max: largest; None where there is no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
            UsageError: not of that form, below 1, or not in order.
        """
        parts = text.split(":")
        if len(parts) > 3 or not all(
            part.isascii() and part.isdigit() and len(part) <= 6 for part in parts
        ):
            raise UsageError(
                f"batch {text[:40]!r} is not N, MIN:OPT or MIN:OPT:MAX with whole numbers of at"
                " least 1"
            )
        sizes = [int(part) for part in parts]
        low, opt = sizes[0], sizes[min(1, len(sizes) - 1)]
        high = None if len(sizes) == 2 else sizes[-1]
        if not (1 <= low <= opt and (high is None or opt <= high)):
            raise UsageError(f"batch {text!r} must satisfy 1 <= MIN <= OPT <= MAX")
        return cls(min=low, opt=opt, max=high)

    @property
    def static(self) -> bool:
        """True where only one batch size is taken."""
        return self.min == self.max

    def __contains__(self, batch: int) -> bool:
        return self.min <= batch and (self.max is None or batch <= self.max)

    def __str__(self) -> str:
        if self.static:
            return str(self.min)
        return f"{self.min}..{'any' if self.max is None else self.max}"
