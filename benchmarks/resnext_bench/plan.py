"""What will be measured: cells, rounds and how long, fixed before the first clock tick."""

from __future__ import annotations

from dataclasses import dataclass

from resnext.errors import UsageError
from resnext.timing.clock import iterations_for
from resnext.timing.interleave import shuffled


@dataclass(frozen=True)
class Cell:
    """One row of the result: a backend at a batch size.

    Attributes:
        backend: registry name.
        batch: images in one run.
        variant: which of the run's precisions or artifacts, where it has several; else nothing.
    """

    backend: str
    batch: int
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.backend} {self.variant}{' ' * bool(self.variant)}batch {self.batch}"


@dataclass(frozen=True)
class Plan:
    """How the cells are measured.

    Cells take turns: each round visits every cell once, in an order that is drawn again, so that
    drift of the machine (clocks, neighbours, heat) affects all alike.

    Attributes:
        cells: what to measure.
        duration_s: timed seconds for each cell, over all rounds.
        rounds: how many visits that time is spread over.
        warmup_s: untimed seconds before the first round, for each cell.
        min_samples: fewest timed runs of a cell, whatever the duration.
        seed: of the order of visits and of the input images.
    """

    cells: tuple[Cell, ...]
    duration_s: float = 5.0
    rounds: int = 5
    warmup_s: float = 0.5
    min_samples: int = 11
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.cells:
            raise UsageError("nothing to measure: name at least one backend and one batch size")
        if self.duration_s <= 0 or self.warmup_s < 0 or self.rounds < 1 or self.min_samples < 1:
            raise UsageError(
                "duration must be positive, warm-up not negative, rounds and samples at least 1"
            )

    def order(self, round_index: int) -> tuple[Cell, ...]:
        """The cells in the order in which round ``round_index`` visits them."""
        return tuple(shuffled(self.seed)(self.cells, round_index))

    def iterations(self, estimate_ns: float) -> int:
        """Timed runs of one visit to a cell whose runs take about ``estimate_ns``."""
        by_count = -(-self.min_samples // self.rounds)
        return iterations_for(self.duration_s * 1e9 / self.rounds, estimate_ns, least=by_count)
