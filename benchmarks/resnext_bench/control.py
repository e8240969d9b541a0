"""The control: one row measured twice under two names, and the noise floor that follows from it."""

from __future__ import annotations

from resnext.artifact.specs import Strict
from resnext.runtimes.session import Boundary
from resnext.timing.intervals import Interval


class Control(Strict):
    """One row measured twice under two names. A ratio other than 1 is the noise of the machine and
    of the harness.

    Attributes:
        backend: of the row.
        batch: of the row.
        variant: of the row.
        threads: of the row, if the run has several numbers of them.
        streams: of the row.
        boundary: of the times.
        rounds_ns: raw nanoseconds of the second measurement, one list for each round.
        disturbed: indices of the rounds in which either of the two was disturbed.
        ratio: second over first: estimate and 95 % interval; None below six undisturbed rounds.
        limit: largest noise floor at which speedups are shown.
    """

    backend: str
    batch: int
    variant: str = ""
    threads: int | None = None
    streams: int = 1
    boundary: Boundary
    rounds_ns: tuple[tuple[int, ...], ...]
    disturbed: tuple[int, ...] = ()
    ratio: tuple[float, float, float] | None
    limit: float

    @property
    def noise_floor(self) -> float | None:
        """The larger of half the interval's width and the estimate's distance from 1; None without
        an interval.
        """
        return None if self.ratio is None else noise_floor(Interval(*self.ratio))

    @property
    def quiet(self) -> bool:
        """Whether the noise floor is known and low enough for speedups."""
        return self.noise_floor is not None and self.noise_floor <= self.limit


def noise_floor(ratio: Interval) -> float:
    """How far apart two measurements of the same may be: the larger of half the interval's width
    and the estimate's distance from 1.
    """
    return max((ratio.high - ratio.low) / 2, abs(ratio.estimate - 1))
