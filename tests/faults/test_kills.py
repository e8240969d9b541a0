"""Commands that are stopped at random moments: the next run succeeds, nothing is lost, nothing is
left, and nothing wrong is served. `make faults` stops them 200 times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("killed.py")
SEED = 2026
#: In the order in which they take turns; those that take long come up once in a round.
PHASES = (
    *("export", "cache", "build", "calibration", "engine"),
    *("export, two renames", "cache", "build", "calibration", "benchmark"),
)


def stopped(folder: Path, tries: int, signal: str, *phases: str) -> list[dict[str, Any]]:
    """Stop ``phases`` in turns; what was found each time."""
    command = [sys.executable, str(SCRIPT), str(folder), str(tries), str(SEED), signal, *phases]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == tries
    return found


def check(found: list[dict[str, Any]]) -> None:
    wrong = [one for one in found if one["problems"]]
    assert wrong == [], f"seed {SEED}"


def test_a_run_after_a_kill_succeeds_and_finds_nothing_half_done(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    found = stopped(tmp_path, 3, "SIGKILL", "cache", "build")
    check(found)
    assert -9 in [one["code"] for one in found]


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
def test_two_hundred_kills(tmp_path: Path) -> None:
    found = stopped(tmp_path, 200, "SIGKILL", *PHASES)
    report("SIGKILL", found)
    check(found)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
def test_a_benchmark_killed_at_fifty_moments_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    found = stopped(tmp_path, 50, "SIGKILL", "benchmark")
    left = Counter(one["left"] for one in found)
    sys.stdout.write(f"\na benchmark killed {len(found)} times left: {dict(left)}\n")
    check(found)
    assert {"no file", "1 finished rows"} <= set(left)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_signal_in_any_phase_ends_the_command_in_one_line_and_leaves_nothing(
    signal: str, tmp_path: Path
) -> None:
    found = stopped(tmp_path, 40, signal, *PHASES)
    report(signal, found)
    check(found)


def report(signal: str, found: list[dict[str, Any]]) -> None:
    """What `make faults` shows: how often each phase was stopped, by phase and exit code."""
    sys.stdout.write(f"\n{signal}, seed {SEED}: {len(found)} times\n")
    for (phase, code), count in sorted(
        Counter((one["phase"], one["code"]) for one in found).items()
    ):
        wrong = sum(bool(one["problems"]) for one in found if one["phase"] == phase)
        sys.stdout.write(f"{phase:22} exit {code:4} {count:4} times, {wrong} problems in all\n")
