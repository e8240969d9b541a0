"""The harness on this very machine, with spinning processes beside it: no row is VALID with a time
that is not the quiet one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from resnext.machine.load import Meter
from resnext.weights.spec import Weights, load_weights
from resnext_bench import Run, benchmark

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]

#: Not PyTorch: beside one spinning process it takes twelve times as long, and the test hours.
BACKENDS = ("ort-cpu", "openvino")
SPIN = "while True: pass"
#: One to two seconds of work, then as much of rest.
NOW_AND_THEN = (
    "import random, time\n"
    "while True:\n"
    "    end = time.monotonic() + random.uniform(1, 2)\n"
    "    while time.monotonic() < end: pass\n"
    "    time.sleep(random.uniform(1, 2))\n"
)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("seeded", "resnext50_32x4d")


@contextmanager
def beside(count: int, script: str) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measured(weights: Weights, count: int = 0, script: str = SPIN, from_round: int = 0) -> Run:
    """A run beside ``count`` processes that start before ``from_round``, 0 for before the run."""
    others: list[subprocess.Popen[bytes]] = []

    def start(line: str = "") -> None:
        if line.startswith(f"round {from_round}/") and not others:
            others.extend(subprocess.Popen([sys.executable, "-c", script]) for _ in range(count))

    try:
        with beside(0 if from_round else count, script):
            return benchmark(
                BACKENDS,
                weights=weights,
                duration=1.0,
                rounds=6,
                precision_target=0.02,
                progress=start,
            )
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.fixture(scope="module")
def quiet(weights: Weights) -> dict[str, float]:
    """Medians on the machine as it is, nanoseconds by backend."""
    if Meter().read().busy_s is None:
        pytest.skip("the kernel does not count busy time here")
    run = measured(weights)
    if {row.status for row in run.rows} != {"valid"}:
        pytest.skip(f"this machine is not quiet: {[row.reasons for row in run.rows]}")
    return {row.backend: row.timings[0].stats.median_ns for row in run.rows}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("script", "from_round"), [(SPIN, 0), (SPIN, 2), (NOW_AND_THEN, 0)], ids=["start", "2", "some"]
)
def test_no_row_is_valid_with_another_median_than_the_quiet_one(
    count: int, script: str, from_round: int, weights: Weights, quiet: dict[str, float]
) -> None:
    run = measured(weights, count, script, from_round)
    slowdown = {
        row.backend: row.timings[0].stats.median_ns / quiet[row.backend] for row in run.rows
    }
    for row in run.rows:
        shown = [f"{row.backend} {row.status} {slowdown[row.backend]:.2f}", *row.reasons]
        sys.stdout.write("; ".join([*shown, *row.warnings.values()]) + "\n")
        assert row.status != "valid" or abs(slowdown[row.backend] - 1) <= 0.10, shown
        speedup = row.timings[0].speedup
        if speedup is not None:
            true = quiet[BACKENDS[0]] / quiet[row.backend]
            assert speedup[0] == pytest.approx(true, rel=0.10)
    if script is SPIN:
        assert {row.status for row in run.rows} == {"invalid"}
        assert all(row.timings[0].speedup is None for row in run.rows)
        assert any("other processes" in reason for row in run.rows for reason in row.reasons)


def test_the_quiet_machine_stays_as_fast(weights: Weights, quiet: dict[str, float]) -> None:
    """Or the comparison above proves nothing."""
    again = [row.timings[0].stats.median_ns / quiet[row.backend] for row in measured(weights).rows]
    assert statistics.fmean(again) == pytest.approx(1, abs=0.10)
