"""The harness on a simulated machine whose times are known: what it reports must be them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from fakes.simulated import QUIET, SPINNING, Machine, Noisy, simulate
from resnext.machine.load import Load
from resnext.network.config import VARIANTS
from resnext.runtimes.session import Delivered
from resnext_bench.checks import disturbed, imprecise, steady, two_modes
from resnext_bench.checks.evidence import Evidence
from resnext_bench.measure import Measured
from resnext_bench.plan import Case, Plan
from resnext_bench.rows import control_of, timings_of
from resnext_bench.stats import Timing, ratio_interval

A, B = Case("a", 1), Case("b", 1)
LEVEL = 1e6


def timing(done: Measured, case: Case = A) -> Timing:
    return timings_of(done.samples[case], 1)[-1]


def codes(done: Measured, plan: Plan, case: Case = A) -> dict[str, str]:
    """The findings of the checks that judge times: severity by code."""
    evidence = Evidence(
        done.samples[case],
        timings_of(done.samples[case], 1),
        None,
        Delivered("cpu", ()),
        VARIANTS["resnext11_8x4d_digits"],
        "fp32",
        planned_rounds=plan.rounds,
        precision=plan.precision,
    )
    checks = (disturbed, steady, imprecise, two_modes)
    return {found.code: found.severity for check in checks for found in check.findings(evidence)}


def walk(machine: Machine, step: float) -> Callable[[int], float]:
    """The machine's level as a random walk of ``step`` a round of three visits."""
    levels = np.cumsum(machine.random.normal(0, step / np.sqrt(3), 400))
    return lambda visit: float(levels[visit])


class Trial(NamedTuple):
    """One simulated run: what covered the truth."""

    rounds: int
    median: bool
    ratio: bool
    control: bool
    differs: bool


def trial(
    seed: int, plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch, slower: float = 1.0
) -> Trial:
    """Two cases and the control; visits have effects of 1.2 %, and the machine drifts by a random
    walk of 1 % a round. The median is that of a machine that does not drift, or there would be no
    true value.
    """
    level = Machine(seed)
    still, _ = simulate(level, {"a": Noisy(level, LEVEL)}, plan, monkeypatch)
    stats = timing(still).stats
    machine = Machine(seed + 1_000_000)
    drift = walk(machine, 0.01)
    times = {
        "a": Noisy(machine, LEVEL, drift=drift),
        "b": Noisy(machine, LEVEL * slower, drift=drift),
    }
    done, _ = simulate(machine, times, plan, monkeypatch)
    ratio = ratio_interval(timing(done, B).quiet_ns, timing(done).quiet_ns)
    assert ratio is not None
    assert stats.median_low_ns is not None
    assert stats.median_high_ns is not None
    control = control_of(done, 0.01)
    covered = control is None or (
        control.ratio is not None and control.ratio[1] <= 1 <= control.ratio[2]
    )
    return Trial(
        len(still.samples[A].host_ns),
        stats.median_low_ns <= LEVEL <= stats.median_high_ns,
        ratio.low <= slower <= ratio.high,
        covered,
        not ratio.low <= 1 <= ratio.high,
    )


def shares(trials: list[Trial]) -> tuple[float, float, float, float]:
    median, ratio, control, differs = np.mean([each[1:] for each in trials], axis=0).tolist()
    return median, ratio, control, differs


PLANS: dict[str, dict[str, Any]] = {
    "8 rounds": {"rounds": 8, "duration_s": 0.16, "precision": None},
    "12 rounds": {"rounds": 12, "duration_s": 0.24, "precision": None},
    "20 rounds": {"rounds": 20, "duration_s": 0.4, "precision": None},
    "from 8 rounds on, until 1 %": {"rounds": 8, "duration_s": 0.16, "precision": 0.01},
    "from 8 rounds on, until 2 %": {"rounds": 8, "duration_s": 0.16, "precision": 0.02},
}


@pytest.mark.parametrize("name", ["12 rounds", "from 8 rounds on, until 1 %"])
def test_intervals_cover_the_truth(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    median, ratio, control, _ = shares([trial(i, PLANS[name], monkeypatch) for i in range(100)])
    assert min(median, ratio, control) >= 0.87  # of 100 trials of 95 %, three deviations


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PLANS)
def test_intervals_cover_the_truth_in_93_to_97_percent_of_2000_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [trial(i, PLANS[name], monkeypatch) for i in range(2000)]
    median, ratio, control, alarms = shares(trials)
    rounds = np.mean([each.rounds for each in trials])
    with capsys.disabled():
        print(  # noqa: T201  # for the documentation
            f"\n| {name} | {rounds:.1f} | {median:.1%} | {ratio:.1%} |"
            f" {f'{control:.1%}' if PLANS[name]['precision'] else 'none'} | {alarms:.1%} |"
        )
    assert all(0.93 <= share <= 0.97 for share in (median, ratio))
    assert control >= 0.93
    assert alarms <= 0.06  # of 2,000 runs, 5 % and two deviations


@pytest.mark.parametrize("runs", [100, pytest.param(2000, marks=pytest.mark.exhaustive)])
def test_a_planted_difference_of_3_percent_is_found_with_12_rounds(
    runs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [trial(i, PLANS["12 rounds"], monkeypatch, slower=1.03) for i in range(runs)]
    power = shares(trials)[3]
    with capsys.disabled():
        print(f"\n3 % planted, found in {power:.1%} of {runs} runs" * (runs > 1000))  # noqa: T201  # as above
    assert power >= 0.95


def test_a_planted_delay_is_reported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(0)
    plan = {"rounds": 8, "duration_s": 0.08}
    exact = {"a": lambda _: 1_000_000, "b": lambda _: 250_000}
    done, planned = simulate(machine, exact, plan, monkeypatch)
    stats = timing(done).stats
    assert stats.median_ns == 1e6
    assert (stats.median_low_ns, stats.median_high_ns) == pytest.approx((1e6, 1e6))
    assert done.ended == "precise"
    assert len(done.samples[A].host_ns) == 8
    assert ratio_interval(timing(done).quiet_ns, timing(done, B).quiet_ns) == pytest.approx(
        (4.0, 4.0, 4.0)
    )
    control = control_of(done, 0.01)
    assert control is not None
    assert control.quiet
    assert (control.backend, control.threads, control.streams) == ("a", None, 1)
    assert codes(done, planned) == {}


def two_speeds(low: float, high: float) -> Callable[[int], float]:
    """A third of the runs take longer."""
    times = itertools.cycle((low, low, high))
    return lambda _: next(times)


FAULTS: dict[str, tuple[Callable[[Machine], Callable[[int], float]], dict[str, str]]] = {
    "drift": (
        lambda machine: Noisy(machine, LEVEL, 0.002, drift=lambda visit: 0.02 * visit),
        {"unsteady-machine": "refused"},
    ),
    "a slower machine after the first round": (
        lambda machine: Noisy(machine, LEVEL, 0.002, drift=lambda visit: (visit > 1) * 0.5),
        {"unsteady-machine": "refused"},
    ),
    "two modes": (
        lambda _: two_speeds(1e6, 1.3e6),
        {"two-modes": "warning"},
    ),
    "effects of 5 %": (
        lambda machine: Noisy(machine, LEVEL, 0.05),
        {"imprecise-median": "warning"},
    ),
    "no fault": (lambda machine: Noisy(machine, LEVEL, 0.004), {}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_of_the_machine_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(1)
    times, expected = FAULTS[name]
    plan = {"rounds": 8, "duration_s": 0.08}
    done, planned = simulate(machine, {"a": times(machine)}, plan, monkeypatch)
    found = codes(done, planned)
    assert {code: found.get(code) for code in expected} == expected
    assert bool(found) == bool(expected)
    assert ("refused" in found.values()) == ("refused" in expected.values())
    assert name == "two modes" or (done.ended == "precise") == (not expected)


def during(visits: range) -> Callable[[int], Load]:
    return lambda visit: SPINNING if visit in visits else QUIET


@pytest.mark.parametrize(
    ("disturbed_visits", "severity"),
    [
        (range(0), None),
        (range(3), "warning"),  # the first rounds; measured again
        (range(4, 20), "warning"),
        (range(1000), "refused"),  # from the start to the end
        (range(8, 1000), "refused"),  # from the fifth round on
        (range(0, 1000, 3), "warning"),  # now and then
    ],
)
def test_disturbed_rounds_are_left_out_and_measured_again(
    disturbed_visits: range, severity: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(2)
    load = during(disturbed_visits)

    def slower(visit: int) -> float:
        return 1.6 if load(visit) is SPINNING else 0.0

    times = {"a": Noisy(machine, LEVEL, 0.004, drift=slower)}
    plan = {"rounds": 8, "duration_s": 0.08}
    done, planned = simulate(machine, times, plan, monkeypatch, load)
    found = codes(done, planned)
    assert found == ({} if severity is None else {"disturbed-machine": severity})
    if severity != "refused":
        assert timing(done).stats.median_ns == pytest.approx(LEVEL, rel=0.02)
        assert len(timing(done).quiet_ns) >= 8
        control = control_of(done, 0.01)
        assert control is not None
        assert control.quiet
    else:
        assert done.ended == "rounds"
        hopeless = len(done.samples[A].disturbed) == len(done.samples[A].host_ns)
        assert len(done.samples[A].host_ns) == (12 if hopeless else 24)


def test_a_disturbance_that_no_counter_shows_makes_the_row_unsteady_or_is_outlived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bursts of 60 % in a third of the visits, from neighbors that cannot be seen: the median stays
    that of the quiet rounds, or the row is refused.
    """
    outcomes: Counter[str] = Counter()
    for seed in range(40):
        machine = Machine(seed)
        bursts = machine.random.random(400) < 0.33
        times = {"a": Noisy(machine, LEVEL, 0.005, drift=lambda visit, at=bursts: 0.5 * at[visit])}  # type: ignore[misc]
        done, planned = simulate(machine, times, {"rounds": 8, "duration_s": 0.08}, monkeypatch)
        refused = "refused" in codes(done, planned).values()
        outcomes["refused" if refused else "valid"] += 1
        if not refused:
            assert timing(done).stats.median_ns == pytest.approx(LEVEL, rel=0.10)
    assert outcomes["valid"] + outcomes["refused"] == 40
