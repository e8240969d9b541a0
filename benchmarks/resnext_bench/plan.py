"""The plan of a run: cases, rounds and durations, fixed before the first clock tick."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resnext.errors import UsageError
from resnext.timing.cold import Cache

#: Measuring ends after this many times the planned rounds: disturbed ones are replaced, and wide
#: intervals narrowed, within them.
_MOST_TIMES = 3


@dataclass(frozen=True)
class Case:
    """One row of the result: a candidate on a backend at a batch size.

    Attributes:
        backend: registry name.
        batch: images in one run.
        candidate: name of the candidate; empty if the run has only one.
        threads: CPU threads, if the run compares several numbers; None means the run's.
        streams: requests in flight at once.
    """

    backend: str
    batch: int
    candidate: str = ""
    threads: int | None = None
    streams: int = 1

    def __str__(self) -> str:
        parts = [self.backend, self.candidate, in_flight(self.threads, self.streams)]
        return " ".join([*filter(None, parts), f"batch {self.batch}"])


def in_flight(threads: int | None, streams: int) -> str:
    """Threads and streams in a row's name: a single stream, and no number of threads, are left
    out.
    """
    parts = [] if threads is None else [f"{threads} thread{'s' * (threads > 1)}"]
    return ", ".join(parts + ([f"{streams} streams"] if streams > 1 else []))


@dataclass(frozen=True)
class Plan:
    """How the cases are measured.

    Cases take turns: each round visits every case once, in a new random order, so that drift of the
    machine (clocks, neighbors, heat) affects all alike.

    Attributes:
        cases: rows to measure.
        duration_s: minimum timed seconds for each case, over all undisturbed rounds.
        rounds: minimum number of undisturbed rounds; the duration is spread over them.
        warmup_s: untimed seconds before the first round, for each case.
        min_samples: minimum number of timed runs of a case, whatever the duration.
        seed: for the order of visits and the input images.
        precision: rounds are added until half the width of the median's 95 % interval is at most
            this share of the median, for every case and for the control, but no more than
            `most_rounds` in all. None measures exactly ``rounds`` rounds, without a control.
        cache: ``cold`` empties the caches before each timed run; flushes count as duration.
    """

    cases: tuple[Case, ...]
    duration_s: float = 5.0
    rounds: int = 8
    warmup_s: float = 0.5
    min_samples: int = 11
    seed: int = 0
    precision: float | None = None
    cache: Cache = "hot"

    @property
    def most_rounds(self) -> int:
        """Rounds after which measuring ends, whatever was reached."""
        return self.rounds if self.precision is None else _MOST_TIMES * self.rounds

    def iterations(self, estimate_ns: float) -> int:
        """Timed runs of one visit to a case whose runs take about ``estimate_ns``: enough for the
        duration and the number of samples, over all rounds.
        """
        by_count = -(-self.min_samples // self.rounds)
        by_time = math.ceil(self.duration_s * 1e9 / self.rounds / max(estimate_ns, 1))
        return max(by_count, by_time)

    def __post_init__(self) -> None:
        if not self.cases:
            raise UsageError("nothing to measure: name at least one backend and one batch size")
        if self.duration_s <= 0 or self.warmup_s < 0 or self.rounds < 1 or self.min_samples < 1:
            raise UsageError(
                "duration must be positive, warm-up not negative, rounds and samples at least 1"
            )
        if self.cache == "cold" and any(case.streams > 1 for case in self.cases):
            raise UsageError(
                "cold caches are for one request at a time", hint="use `streams` 1 or `cache` hot"
            )
        if self.precision is not None and not 0 < self.precision < 1:
            raise UsageError("`precision_target` must be above 0 and below 100 %")
