"""After how many images a faster row has paid for its build and its start."""

from __future__ import annotations

from dataclasses import dataclass

from resnext_bench.record import Row
from resnext_bench.scenarios.cold_record import median_of

#: More images than this are never reached in practice: the rows are as fast as each other.
_NEVER = 1e12


@dataclass(frozen=True)
class Payback:
    """What a row costs before its first answer, against what it saves with each image.

    Attributes:
        images: after which both have taken as long; None if that is never, or not known.
        low: the fewest, by the interval of the speedup.
        high: the most.
        reason: why it is never, or not known; "" otherwise.
    """

    images: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def payback(row: Row, base: Row, noise_floor: float = 0.0) -> Payback:
    """After how many images ``row`` has overtaken ``base``, counted from before its build.

    A row costs its build and the start without caches, up to the first answer. Intervals are those
    of the speedup.

    Args:
        row: with a speedup over ``base``.
        base: the first row of the same batch.
        noise_floor: a speedup within it is none.
    """
    if row.cold_start is None or base.cold_start is None or not row.timings or not base.timings:
        return Payback(reason="not known: there is no cold start of both rows")
    build_s, base_build_s = row.cold_start.build_s, base.cold_start.build_s
    speedup = row.timings[-1].speedup
    if build_s is None or base_build_s is None:
        return Payback(reason="not known: an artifact does not say how long its build took")
    if speedup is None:
        return Payback(reason="not known: no speedup could be shown")
    if speedup[0] <= 1:
        return Payback(reason="never: it is not faster")
    if speedup[1] <= 1 + noise_floor:
        return Payback(reason="never for sure: it is not faster beyond the noise")
    start_s, base_start_s = (
        median_of(each.without_caches, lambda start: start.total_s)
        for each in (row.cold_start, base.cold_start)
    )
    extra_s = build_s + start_s - base_build_s - base_start_s
    if extra_s <= 0:
        return Payback(0.0, 0.0, 0.0)
    image_s = 1 / base.timings[-1].stats.images_per_s
    if not image_s:
        return Payback(reason="not known: an image took no time")
    estimate, low, high = (extra_s / (image_s * (1 - 1 / factor)) for factor in speedup)
    if estimate > _NEVER:
        return Payback(reason="never: it is not faster")
    return Payback(estimate, high, low)
