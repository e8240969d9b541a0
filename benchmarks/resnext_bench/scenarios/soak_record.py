"""The record of a soak."""

from __future__ import annotations

from resnext.artifact.specs import Strict

from .growth import Growth

#: Smallest growth of memory over the judged stretch that is called a leak, bytes. A steady process
#: of this toolkit shows none; pools of Python and of the C library grow in steps of up to this.
LEAST_LEAK = 500_000
#: Smallest growth of latency over the judged stretch that is called a slowdown.
LEAST_SLOWDOWN = 0.05


class SoakRecord(Strict):
    """What a session did over minutes at mixed batch sizes.

    Attributes:
        minutes: requested.
        lasted_s: seconds until it ended; shorter if time was up, or it was interrupted.
        batches: batch sizes, in turn in a random order.
        runs: of all sizes.
        at_s: end of each window, seconds since the start.
        host_bytes: resident memory of the process at the end of each window; empty if the system
            does not tell.
        device_bytes: memory in use on the device at those times; empty for a CPU.
        latency: of each window: geometric mean over the batch sizes of its median over the median
            of all windows.
        host_growth: bytes a minute of host memory; None if unknown, or the soak was too short.
        device_growth: the same on the device.
        latency_growth: logarithm of the latency, a minute.
        output_error: largest difference of an output from the first one of its input, relative to
            the RMS of the logits; infinite ones are stored as None.
        output_limit: allowed: rounding, or four times what the first runs differed by.
        changed_s: seconds until an output was beyond it; None if none was.
    """

    minutes: float
    lasted_s: float
    batches: tuple[int, ...]
    runs: int
    at_s: tuple[float, ...]
    host_bytes: tuple[int, ...]
    device_bytes: tuple[int, ...] = ()
    latency: tuple[float, ...]
    host_growth: Growth | None
    device_growth: Growth | None = None
    latency_growth: Growth | None
    output_error: float | None
    output_limit: float
    changed_s: float | None = None

    def leaks(self) -> dict[str, Growth]:
        """Growth that goes on, by where: its interval is above zero, and it is more than steps of a
        pool explain.
        """
        grown = {"host": self.host_growth, "device": self.device_growth}
        return {
            place: growth
            for place, growth in grown.items()
            if growth is not None and growth.total[1] > 0 and growth.total[0] >= LEAST_LEAK
        }

    def slower(self) -> Growth | None:
        """The growth of latency, if it goes on and is large enough."""
        growth = self.latency_growth
        slow = growth is not None and growth.total[1] > 0 and growth.total[0] >= LEAST_SLOWDOWN
        return growth if slow else None
