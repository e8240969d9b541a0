"""A simulated machine: times of two candidates in rounds, with noise as it was measured.

Run as a script, it prints the coverage table of docs/concepts/known-answers.md.

In each round the machine has drifted a little further (a random walk that both candidates share),
each visit has an effect shared by its samples (caches, page placement, a neighbor), and each sample
has a heavy tail.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.timing.change import Change, paired, unpaired
from resnext.timing.intervals import Interval, rank_sum, signed_rank


@dataclass(frozen=True)
class Machine:
    """How a machine disturbs its times; every effect is a share of the time.

    Attributes:
        drift: step of the random walk between rounds.
        visit: effect that all samples of a visit share.
        sample: scale of the heavy-tailed noise of a sample (Student's t, 3 degrees of freedom).
        samples: of a visit.
    """

    drift: float = 0.01
    visit: float = 0.012
    sample: float = 0.01
    samples: int = 20

    def visits(
        self, rng: np.random.Generator, trials: int, rounds: int, ratios: tuple[float, ...]
    ) -> NDArray[Any]:
        """Logarithm of the median of each visit, trials x rounds x candidates.

        Args:
            rng: seeded.
            trials: independent runs.
            rounds: of each run.
            ratios: true time of each candidate over that of the base.
        """
        shape = (trials, rounds, len(ratios))
        drift = rng.normal(0, self.drift, (trials, rounds, 1)).cumsum(axis=1)
        visits = drift + rng.normal(0, self.visit, shape) + np.log(ratios)
        noise = self.sample * rng.standard_t(3, (*shape, self.samples))
        medians: NDArray[Any] = np.median(visits[..., None] + noise, axis=-1)
        return medians


#: As measured on a shared machine.
NOISY = Machine()
#: The same between disturbances: what two runs at different times can be compared on.
WITHOUT_DRIFT = Machine(drift=0.0)


def paired_trials(
    rng: np.random.Generator, rounds: int, ratio: float, trials: int = 2000, on: Machine = NOISY
) -> list[list[float]]:
    """Log ratios of the rounds of many interleaved runs of two candidates."""
    visits = on.visits(rng, trials, rounds, (1.0, ratio))
    values: list[list[float]] = (visits[..., 1] - visits[..., 0]).tolist()
    return values


def unpaired_trials(
    rng: np.random.Generator,
    rounds: int,
    ratio: float,
    trials: int = 2000,
    on: Machine = WITHOUT_DRIFT,
) -> list[tuple[list[float], list[float]]]:
    """Logarithms of the rounds of two runs at different times, of each of many trials."""
    base, new = (on.visits(rng, trials, rounds, (each,))[..., 0] for each in (1.0, ratio))
    return list(zip(base.tolist(), new.tolist(), strict=True))


def coverage(intervals: list[Interval | None], truth: float) -> float:
    """Share of intervals that contain ``truth``; one that does not exist contains everything."""
    return float(np.mean([each is None or each.low <= truth <= each.high for each in intervals]))


def flagged(changes: list[Change]) -> float:
    """Share of ``changes`` that are ``FASTER`` or ``SLOWER``."""
    return float(np.mean([change.verdict in ("FASTER", "SLOWER") for change in changes]))


Outcome: TypeAlias = tuple[list[Interval | None], list[Change]]


def coverage_table(
    rounds: tuple[int, ...] = (6, 8, 12, 20), trials: int = 2000, seed: int = 0
) -> str:
    """Coverage of the intervals, and how often there is a verdict, as a Markdown table."""
    rng = np.random.default_rng(seed)

    def ab(count: int, ratio: float, on: Machine) -> Outcome:
        runs = paired_trials(rng, count, ratio, trials, on)
        return [*map(signed_rank, runs)], [*map(paired, runs)]

    def compare(count: int, ratio: float, on: Machine) -> Outcome:
        runs = unpaired_trials(rng, count, ratio, trials, on)
        return [rank_sum(new, base) for base, new in runs], [unpaired(*run) for run in runs]

    lines = [
        "| | " + " | ".join(f"{count} rounds" for count in rounds) + " |",
        "| --- |" + " ---: |" * len(rounds),
    ]
    for name, make, on in (
        ("`ab`, drift", ab, NOISY),
        ("`compare`, no drift", compare, WITHOUT_DRIFT),
        ("`compare`, drift", compare, NOISY),
    ):
        outcomes = {
            ratio: [make(count, ratio, on) for count in rounds] for ratio in (1.0, 1.03, 1.05)
        }
        cells = {
            "interval covers 1.00": [coverage(each, 0.0) for each, _ in outcomes[1.0]],
            "interval covers 1.03": [coverage(each, np.log(1.03)) for each, _ in outcomes[1.03]],
            "interval of 1.03 excludes 1": [1 - coverage(each, 0.0) for each, _ in outcomes[1.03]],
        }
        for ratio, outcome in outcomes.items():
            cells[f"FASTER or SLOWER at {ratio:.2f}"] = [flagged(each) for _, each in outcome]
        for quantity, shares in cells.items():
            row = " | ".join(f"{share:.1%}" for share in shares)
            lines.append(f"| {name}: {quantity} | {row} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(coverage_table() + "\n")
