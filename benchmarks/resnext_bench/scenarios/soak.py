"""A soak: one session runs for minutes at mixed batch sizes, while its memory, its latency and its
outputs are watched.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import UsageError
from resnext.progress import Amount, Step
from resnext.runtimes.session import Arrays, Session
from resnext.timing import clock
from resnext.timing.streams import time_streams
from resnext_bench.measure import Call
from resnext_bench.memory import device_used_bytes, release_free, resident_bytes

from .growth import growth
from .scenario import Stage
from .soak_record import SoakRecord

#: Windows of a soak: as many as this, but none longer than `_LONGEST_S`, unless there were more
#: than `_MOST_WINDOWS`.
_WINDOWS = 120
_LONGEST_S = 5.0
_MOST_WINDOWS = 2000
#: One batch size runs for at most about this long, and for at most so many runs: their times are
#: kept until the next one, and must not look like a leak.
_TURN_S = 0.1
_MOST_RUNS = 128
#: Seconds between two lines of progress, at least, and most lines of a soak.
_SAY_EVERY_S = 10.0
_MOST_LINES = 60
#: Runs of each size before the soak: compiled, allocated, and compared with each other.
_FIRST_RUNS = 3
#: A few roundings of a float32 logit.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
_MARGIN = 4.0


@dataclass(frozen=True)
class Soak:
    """Watches a session for minutes.

    Attributes:
        minutes: how long, for each row.
        host_bytes: reads the resident memory of the process; None if the system does not tell.
        device_bytes: reads the memory in use on the device.

    Raises:
        UsageError: ``minutes`` is not positive.
    """

    minutes: float
    host_bytes: Callable[[], int | None] = resident_bytes
    device_bytes: Callable[[], int | None] = device_used_bytes
    field: str = field(default="soak", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise UsageError(f"`soak` takes minutes above 0, not {self.minutes:g}")

    def __call__(self, stage: Stage) -> SoakRecord:
        """Run ``stage``'s session at mixed batch sizes until the minutes are over, or the deadline
        is.

        Raises:
            ResnextError: what the session raises.
        """
        stage.say(f"soak of {stage.case}: first runs at each batch size")
        session, inputs = stage.subject.session, stage.subject.inputs
        wanted_s = self.minutes * 60
        window_s = max(min(wanted_s / _WINDOWS, _LONGEST_S), wanted_s / _MOST_WINDOWS)
        batches = _batches(session, stage.case.batch)
        turn_s = min(_TURN_S, window_s / len(batches))
        watched = {batch: _Watched(session, _rows(inputs, batch), turn_s) for batch in batches}
        on_device = stage.subject.bound.cuda_stream is not None
        host_bytes = _unseen if session.served else self.host_bytes
        log = _Log(on_device, host_bytes, self.device_bytes)
        order = np.random.default_rng(stage.seed)
        release_free()  # or a leak would fill what earlier rows and exports have freed, unseen
        amount = Amount(total=math.ceil(wanted_s))
        started_ns, said_s = clock.now_ns(), -math.inf
        now_s = 0.0
        while now_s < wanted_s and not stage.deadline.over():
            amount.done = int(now_s)
            if now_s - said_s >= max(_SAY_EVERY_S, wanted_s / _MOST_LINES):
                left = round(wanted_s - now_s)
                text = f"soak of {stage.case}: {left // 60}:{left % 60:02d} left"
                stage.say(Step(text, amount))
                said_s = now_s
            ends_s, times = now_s + window_s, dict[int, list[float]]()
            while not times or (now_s < ends_s and not stage.deadline.over()):
                for batch in order.permutation(list(watched)).tolist():
                    times.setdefault(batch, []).append(watched[batch].turn())
                now_s = (clock.now_ns() - started_ns) / 1e9
            for one in watched.values():
                one.compare(now_s)
            log.add(now_s, {batch: statistics.median(own) for batch, own in times.items()})
        return self._record(now_s, watched, log)

    def _record(self, lasted_s: float, watched: Mapping[int, _Watched], log: _Log) -> SoakRecord:
        latency = log.latency()
        changes = [one.changed_s for one in watched.values() if one.changed_s is not None]
        worst = max(one.error for one in watched.values())
        return SoakRecord(
            minutes=self.minutes,
            lasted_s=lasted_s,
            batches=tuple(watched),
            runs=sum(one.runs for one in watched.values()),
            at_s=tuple(log.at_s),
            host_bytes=tuple(log.host),
            device_bytes=tuple(log.device),
            latency=tuple(map(math.exp, latency)),
            host_growth=growth(log.at_s, log.host, min) if log.host else None,
            device_growth=growth(log.at_s, log.device, min) if log.device else None,
            latency_growth=growth(log.at_s, latency),
            output_error=worst if math.isfinite(worst) else None,
            output_limit=max(one.limit for one in watched.values()),
            changed_s=min(changes, default=None),
        )


class _Watched:
    """One batch size: its runs, and the first outputs to compare the others with."""

    def __init__(self, session: Session, inputs: Arrays, turn_s: float) -> None:
        self._calls = [Call(stream, inputs) for stream in session.streams()]
        self._output = session.outputs[0].name
        self.runs = 0
        self.error, self.limit = 0.0, _ROUNDING
        self.changed_s: float | None = None
        took = [self._time(1) for _ in range(_FIRST_RUNS)]
        self._first = self._outputs()[0].copy()
        for _ in range(_FIRST_RUNS):
            took.append(self._time(1))
            self.limit = max(self.limit, _MARGIN * self._worst())
        if not math.isfinite(self.limit):
            self.limit = _ROUNDING
        self._count = clock.iterations_for(turn_s * 1e9, min(took), most=_MOST_RUNS)

    def turn(self) -> float:
        """Run for a while; the median of the times, nanoseconds."""
        return self._time(self._count)

    def compare(self, now_s: float) -> None:
        """Compare the last outputs with the first."""
        error = self._worst()
        self.error = max(self.error, error)
        if error > self.limit and self.changed_s is None:
            self.changed_s = now_s

    def _time(self, count: int) -> float:
        calls = self._calls
        times = clock.time_host(calls[0], count) if len(calls) == 1 else time_streams(calls, count)
        self.runs += len(times)
        return statistics.median(times) or 1.0

    def _outputs(self) -> list[NDArray[Any]]:
        return [np.asarray(call.last[self._output]) for call in self._calls]

    def _worst(self) -> float:
        return max(_difference(output, self._first) for output in self._outputs())


class _Log:
    """What was read at the end of each window."""

    def __init__(
        self, on_device: bool, host: Callable[[], int | None], device: Callable[[], int | None]
    ) -> None:
        self.at_s: list[float] = []
        self.host: list[int] = []
        self.device: list[int] = []
        self._medians: dict[int, list[float]] = {}
        self._read_host, self._read_device = host, device if on_device else lambda: None

    def add(self, now_s: float, medians: Mapping[int, float]) -> None:
        """A window has ended."""
        self.at_s.append(now_s)
        for series, read in ((self.host, self._read_host), (self.device, self._read_device)):
            value = read()
            if value is not None:
                series.append(value)
        for batch, median in medians.items():
            self._medians.setdefault(batch, []).append(median)

    def latency(self) -> list[float]:
        """Logarithm of each window's latency over that of all, mean over the batch sizes."""
        own = []
        for times in self._medians.values():
            usual = statistics.median(times)
            own.append([math.log(median / usual) for median in times])
        return [statistics.fmean(window) for window in zip(*own, strict=True)]


def _unseen() -> None:
    """The memory of a server: this process's says nothing of it."""


def _batches(session: Session, batch: int) -> list[int]:
    """Batch sizes to mix: 1, 2, half of the row's and the row's, as far as the session takes
    them.
    """
    return [size for size in sorted({1, 2, max(1, batch // 2), batch}) if session.takes(size)]


def _rows(inputs: Arrays, batch: int) -> dict[str, NDArray[Any]]:
    """``batch`` rows of ``inputs``, from the first again if there are fewer."""
    return {
        name: np.ascontiguousarray(array[np.arange(batch) % len(array)])
        for name, array in inputs.items()
    }


def _difference(output: NDArray[Any], first: NDArray[Any]) -> float:
    """Largest difference, relative to the RMS of ``first``; infinite if they cannot be compared."""
    if output.shape != first.shape:
        return math.inf
    if np.array_equal(output, first):
        return 0.0
    wide = first.astype(np.float64)
    worst = float(np.abs(output.astype(np.float64) - wide).max())
    scale = float(np.sqrt(np.mean(wide**2))) or 1.0
    return worst / scale if math.isfinite(worst) else math.inf
