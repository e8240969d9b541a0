"""Change points of series whose truth is planted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext_bench.history.read import judged
from resnext_bench.history.series import Key, Point
from resnext_bench.history.steps import PERMUTATIONS, Step, find_steps

#: A step of 4 % in noise of 1.5 %.
STEP, NOISE = math.log(1.04), 0.015


def series(seed: int, count: int = 80, *steps: int, size: float = STEP) -> NDArray[np.float64]:
    """Logarithms of medians with a step of ``size`` at each of ``steps``."""
    values = np.random.default_rng(seed).normal(0, NOISE, count)
    for at in steps:
        values[at:] += size
    return values


def places(values: NDArray[np.float64], **settings: int) -> list[int]:
    return [step.at for step in find_steps(values.tolist(), **settings)]


def test_a_step_is_seen_where_it_is() -> None:
    (step,) = find_steps(series(1, 80, 50).tolist())
    assert abs(step.at - 50) <= 3
    assert step.p_value == 1 / 1000
    seen = [places(series(seed, 80, 50), permutations=99) for seed in range(40)]
    near = [any(abs(place - 50) <= 3 for place in each) for each in seen]
    assert sum(near) >= 37
    assert sum(len(each) > 1 for each in seen) <= 6


def test_two_steps_are_seen() -> None:
    first, second = places(series(1, 80, 30, 55))
    assert abs(first - 30) <= 3
    assert abs(second - 55) <= 3


def test_a_step_back_is_seen() -> None:
    values = series(2, 80, 30)
    values[55:] -= STEP
    first, second = places(values)
    assert abs(first - 30) <= 3
    assert abs(second - 55) <= 3


def test_the_units_of_the_values_and_the_seed_do_not_matter() -> None:
    values = series(3, 80, 50)
    assert places(values) == places(values * 1e9 + 5) == places(values, seed=9)


def test_the_smallest_series_has_four_values_on_either_side() -> None:
    levels = [0.0, 0.001, 0.002, 0.003, 1.0, 1.001, 1.002, 1.003]
    assert find_steps(levels) != []
    assert find_steps(levels)[0].at == 4
    assert find_steps(levels[1:]) == []
    assert find_steps([0.0] * 5 + [1.0] * 3) == []
    assert find_steps([]) == find_steps([1.0]) == []


def test_equal_values_have_no_step() -> None:
    assert find_steps([1.5] * 40) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: values.__setitem__(20, 0.5),
        lambda values: values.__setitem__(-1, 0.5),
        lambda values: values.__setitem__([10, 30, 31], 0.3),
        lambda values: values.__setitem__(0, -0.5),
    ],
)
def test_single_outliers_are_no_step(spoil: Callable[[NDArray[np.float64]], None]) -> None:
    values = series(4, 40)
    assert places(values) == []
    spoil(values)
    assert places(values) == []


def test_outliers_do_not_hide_a_step() -> None:
    values = series(5, 80, 50)
    values[[7, 33, 64]] += 0.3
    (place,) = places(values)
    assert abs(place - 50) <= 3


def test_drift_is_steps_in_one_direction() -> None:
    """No model of a drift: it is shown as a staircase."""
    values = series(6) + np.linspace(0, 2 * STEP, 80)
    steps = [0, *places(values), 80]
    levels = [values[low:high].mean() for low, high in pairwise(steps)]
    assert len(levels) > 2
    assert levels == sorted(levels)


def test_noise_has_a_step_in_one_of_twenty_series_at_most() -> None:
    """The share of series of nothing but noise in which some step is seen; heavy tails, too."""
    random = np.random.default_rng(8)
    trials = 300
    noise = [random.normal(0, NOISE, 24) for _ in range(trials // 2)]
    noise += [NOISE * random.standard_t(3, 24) for _ in range(trials // 2)]
    alarms = sum(bool(find_steps(each.tolist(), permutations=99)) for each in noise)
    assert alarms <= 0.05 * trials + 2 * math.sqrt(trials * 0.05 * 0.95)


def test_the_p_value_counts_the_order_at_hand() -> None:
    assert find_steps([0.0] * 10 + [1.0] * 10, permutations=19) == [Step(10, 1 / 20)]
    assert find_steps([0.0] * 10 + [1.0] * 10, permutations=18) == []


# ---- the rates in docs/concepts/known-answers.md


def share(seen: Iterable[bool]) -> float:
    """Of those that are true."""
    outcomes = list(seen)
    return sum(outcomes) / len(outcomes)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("count", "at", "size", "least"),
    [
        *((80, 50, 1.04, 0.96), (8, 4, 1.04, 0.7), (20, 16, 1.04, 0.73), (40, 36, 1.04, 0.77)),
        *((8, 4, 1.1, 0.99), (20, 16, 1.1, 0.99)),
    ],
)
def test_a_step_is_seen_within_three_runs(count: int, at: int, size: float, least: float) -> None:
    planted = (series(seed, count, at, size=math.log(size)) for seed in range(400))
    seen = share(
        any(abs(place - at) <= 3 for place in places(values, permutations=199))
        for values in planted
    )
    print(f"{size} at {at} of {count}: {seen:.1%}")  # noqa: T201  # the documents have it
    assert seen >= least


def with_outliers(seed: int, *steps: int) -> NDArray[np.float64]:
    values = series(seed, 80, *steps)
    values[np.random.default_rng(seed + 10**6).choice(80, 3, replace=False)] += 0.3
    return values


@pytest.mark.exhaustive
def test_rates_with_two_steps_outliers_and_drift() -> None:
    def near(values: NDArray[np.float64], *steps: int) -> bool:
        seen = places(values, permutations=199)
        return len(seen) == len(steps) and all(
            abs(place - step) <= 3 for place, step in zip(seen, steps, strict=True)
        )

    two = share(near(series(seed, 80, 30, 55), 30, 55) for seed in range(400))
    behind = share(
        any(abs(place - 50) <= 3 for place in places(with_outliers(seed, 50), permutations=199))
        for seed in range(400)
    )
    alarms = share(bool(places(with_outliers(seed), permutations=199)) for seed in range(400))
    drift = np.linspace(0, 2 * STEP, 80)
    drifts = [len(places(series(seed) + drift, permutations=199)) for seed in range(200)]
    print(f"two {two:.1%}, behind outliers {behind:.1%}, outliers alone {alarms:.1%}")  # noqa: T201
    print("drift", {steps: drifts.count(steps) / 200 for steps in range(6)})  # noqa: T201
    assert two >= 0.85
    assert behind >= 0.94
    assert alarms <= 0.08
    assert 0 not in drifts


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [8, 20, 40, 80])
def test_noise_has_no_step(count: int) -> None:
    noise = (series(5000 + seed, count) for seed in range(1000))
    seen = share(bool(places(values, permutations=199)) for values in noise)
    print(f"no step in {count}: {seen:.1%}")  # noqa: T201  # the documents have it
    assert seen <= 0.07


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("rows", "ratio", "at", "least"),
    [(12, 1.0, 24, 0.0), (1, 1.05, 26, 0.85), (12, 1.05, 26, 0.5), (12, 1.05, 24, 0.7)],
)
def test_the_gate_over_thirty_runs(rows: int, ratio: float, at: int, least: float) -> None:
    """Only the first row has a step."""
    slower, wrong = [], []
    for seed in range(200):
        random = np.random.default_rng(seed + (7 << 20))
        levels = random.normal(0, NOISE, (rows, 30))
        levels[0, at:] += math.log(ratio)
        verdicts = _verdicts(np.exp(levels) * 1e7)
        slower.append(verdicts[0] == "SLOWER")
        wrong.append(bool({"SLOWER", "FASTER"} & set(verdicts[ratio > 1 :])))
    print(f"{rows} rows, {ratio} at {at}: {share(slower):.1%}, wrong {share(wrong):.1%}")  # noqa: T201
    assert share(slower) >= least
    assert share(wrong) <= 0.02


def _verdicts(times: NDArray[np.float64]) -> list[str]:
    """Of the gate, for rows x runs in nanoseconds."""
    keys = [
        Key("cpu", "2", "none", "net", "weights", "ort", str(at), 1, 1, "fp32", "host", "hot", 2)
        for at in range(len(times))
    ]
    rows = {
        key: [Point("", "", float(time), None, None, None, {}) for time in row]
        for key, row in zip(keys, times, strict=True)
    }
    most = max(PERMUTATIONS, 40 * len(rows))
    steps = {
        key: find_steps(np.log(row).tolist(), permutations=most)
        for key, row in zip(keys, times, strict=True)
    }
    changes = judged(rows, steps, 0.02, 20).values()
    return [change.verdict if change else "SAME" for change in changes]
