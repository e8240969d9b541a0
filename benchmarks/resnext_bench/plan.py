"""What will be measured: cases, rounds and how long, fixed before the first clock tick."""

from __future__ import annotations

from dataclasses import dataclass

from resnext.errors import UsageError
from resnext.timing.clock import iterations_for
from resnext.timing.interleave import shuffled


@dataclass(frozen=True)
class Case:
    """One row of the result: a candidate on a backend at a batch size.

    Attributes:
        backend: registry name.
        batch: images in one run.
        candidate: name of the candidate; empty if the run has only one.
    """

    backend: str
    batch: int
    candidate: str = ""

    def __str__(self) -> str:
        return f"{self.backend} {self.candidate}{' ' * bool(self.candidate)}batch {self.batch}"


@dataclass(frozen=True)
class Plan:
    """How the cases are measured.

    Cases take turns: each round visits every case once, in an order that is drawn again, so that
    drift of the machine (clocks, neighbours, heat) affects all alike.

    Attributes:
        cases: what to measure.
        duration_s: timed seconds for each case, over all rounds.
        rounds: how many visits that time is spread over.
        warmup_s: untimed seconds before the first round, for each case.
        min_samples: fewest timed runs of a case, whatever the duration.
        seed: of the order of visits and of the input images.
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

    def order(self, round_index: int) -> tuple[Case, ...]:
        """The cases in the order in which round ``round_index`` visits them."""
        return tuple(shuffled(self.seed)(self.cases, round_index))

    def iterations(self, estimate_ns: float) -> int:
        """Timed runs of one visit to a case whose runs take about ``estimate_ns``."""
        by_count = -(-self.min_samples // self.rounds)
        return iterations_for(self.duration_s * 1e9 / self.rounds, estimate_ns, least=by_count)
