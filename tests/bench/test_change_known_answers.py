"""The answers are known: a simulated machine says what the intervals and verdicts must find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.simulated import (
    NOISY,
    WITHOUT_DRIFT,
    coverage,
    coverage_table,
    flagged,
    paired_trials,
    unpaired_trials,
)
from resnext.timing.change import paired, unpaired
from resnext.timing.intervals import rank_sum, signed_rank


@pytest.mark.parametrize("rounds", [8, 12, 20])
@pytest.mark.parametrize("ratio", [1.0, 1.03])
def test_interleaved_rounds_cover_the_truth(rounds: int, ratio: float) -> None:
    trials = paired_trials(np.random.default_rng(rounds), rounds, ratio)
    assert 0.93 <= coverage([*map(signed_rank, trials)], math.log(ratio)) <= 0.97


@pytest.mark.parametrize("rounds", [8, 12, 20])
def test_two_runs_on_a_quiet_machine_cover_the_truth(rounds: int) -> None:
    trials = unpaired_trials(np.random.default_rng(rounds), rounds, 1.03)
    intervals = [rank_sum(new, base) for base, new in trials]
    assert 0.93 <= coverage(intervals, math.log(1.03)) <= 0.97


def test_pooled_samples_would_not() -> None:
    """What the intervals are not made of: the fault that this simulation must be able to show."""
    rng = np.random.default_rng(0)
    pooled = []
    for visit in rng.normal(0, NOISY.visit, (400, 12)):
        samples = (visit[:, None] + rng.normal(0, NOISY.sample, (12, 20))).ravel()
        mean, error = samples.mean(), samples.std() / math.sqrt(samples.size)
        pooled.append(abs(mean) <= 1.96 * error)
    assert np.mean(pooled) < 0.7


def test_a_planted_three_percent_is_found_and_no_change_is_not_flagged() -> None:
    rng = np.random.default_rng(1)
    slower = paired_trials(rng, 12, 1.03)
    assert coverage([*map(signed_rank, slower)], 0.0) <= 0.05
    changes = [*map(paired, slower)]
    assert 0.2 < flagged(changes) < 0.6  # beyond a margin of 2 %, which takes more rounds
    assert not any(change.verdict == "FASTER" for change in changes)
    assert flagged([*map(paired, paired_trials(rng, 12, 1.0))]) <= 0.05
    assert flagged([*map(paired, paired_trials(rng, 12, 1.0 + 0.02))]) <= 0.05
    assert flagged([*map(paired, paired_trials(rng, 12, 1.05))]) >= 0.95


def test_runs_at_different_times_flag_drift_seldom() -> None:
    rng = np.random.default_rng(2)
    same = unpaired_trials(rng, 12, 1.0, on=WITHOUT_DRIFT)
    assert flagged([unpaired(*run) for run in same]) <= 0.05
    drifting = unpaired_trials(rng, 12, 1.0, on=NOISY)
    # the interval alone, which takes rounds for independent, is wrong in most
    assert coverage([rank_sum(new, base) for base, new in drifting], 0.0) < 0.5
    assert flagged([unpaired(*run) for run in drifting]) <= 0.08


def test_the_table_has_a_line_for_each_quantity() -> None:
    heading, _, *lines = coverage_table((6, 8), trials=20).splitlines()
    assert heading == "| | 6 rounds | 8 rounds |"
    assert len(lines) == 18
    assert all(line.count("%") == 2 for line in lines)
