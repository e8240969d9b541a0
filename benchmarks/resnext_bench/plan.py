"""The plan of a run: cases, rounds and durations, fixed before the first clock tick."""

from __future__ import annotations

from dataclasses import dataclass

from resnext.errors import UsageError


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
        duration_s: timed seconds for each case, over all rounds.
        rounds: number of visits that this time is spread over.
        warmup_s: untimed seconds before the first round, for each case.
        min_samples: minimum number of timed runs of a case, whatever the duration.
        seed: for the order of visits and the input images.
    """

    cases: tuple[Case, ...]
    duration_s: float = 5.0
    rounds: int = 5
    warmup_s: float = 0.5
    min_samples: int = 11
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.cases:
            raise UsageError("nothing to measure: name at least one backend and one batch size")
        if self.duration_s <= 0 or self.warmup_s < 0 or self.rounds < 1 or self.min_samples < 1:
            raise UsageError(
                "duration must be positive, warm-up not negative, rounds and samples at least 1"
            )
