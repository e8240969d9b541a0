"""Who used the processors: planted counters, and one real process beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from resnext.machine.load import Counters, Load, Meter

QUIET = Load(wall_s=1.0, processors=2, cores=2, own=2.0, others=0.0, stolen=0.0, waiting=0.01)


@pytest.mark.parametrize(
    ("changes", "threads", "cause"),
    [
        ({}, 2, None),
        # as measured on two quiet cores
        ({"own": 1.96, "others": 0.04, "waiting": 0.03}, 2, None),
        # one, two and three spinning processes beside two threads, as measured
        ({"own": 1.27, "others": 0.75, "waiting": 0.51}, 2, "other processes"),
        ({"own": 1.0, "others": 1.0, "waiting": 0.99}, 2, "other processes"),
        ({"own": 0.8, "others": 1.2, "waiting": 0.98}, 2, "other processes"),
        # a process that runs now and then, seen by the time that tasks waited alone
        ({"own": 1.9, "others": 0.11, "waiting": 0.09}, 2, "other processes"),
        # the threads of the row before still spin
        ({"own": 1.97, "others": 0.02, "waiting": 0.5}, 2, "more threads than processors"),
        # the same without pressure stall information
        ({"own": 1.27, "others": 0.75, "waiting": None}, 2, "other processes"),
        # one thread, and a process on the other processor
        ({"own": 1.0, "others": 1.0, "waiting": 0.02}, 1, None),
        ({"own": 0.7, "others": 1.3, "waiting": 0.4}, 1, "other processes"),
        # a large machine whose other users wait among themselves
        ({"processors": 64, "cores": 64, "own": 2.0, "others": 30.0, "waiting": 0.9}, 2, None),
        (
            {"processors": 64, "cores": 64, "own": 1.5, "others": 62.5, "waiting": 0.9},
            2,
            "other processes",
        ),
        # two threads on two cores of two processors each: the other's work is on one of these cores
        ({"processors": 4, "own": 2.0, "others": 1.0, "waiting": 0.0}, 2, "other processes"),
        ({"stolen": 0.3}, 2, "steal time"),
        ({"stolen": 0.02}, 2, None),
        ({"throttled": 0.2}, 2, "the CPU quota"),
        ({"others": None, "stolen": None, "waiting": None}, 2, None),
    ],
)
def test_disturbances_are_named(
    changes: dict[str, float | None], threads: int, cause: str | None
) -> None:
    reasons = QUIET.model_copy(update=changes).disturbances(threads)
    assert len(reasons) == (cause is not None)
    assert cause is None or reasons[0].startswith(cause)


def test_a_short_stretch_forgives_the_grain_of_the_kernels_clock() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    short = QUIET.model_copy(update={"wall_s": 0.05, "others": 2 * tick / 0.05, "waiting": None})
    assert not short.disturbances(2)
    assert short.model_copy(update={"wall_s": 5.0}).disturbances(2)


def plant(proc: Path, busy: int, steal: int, waited_us: int, throttled_us: int) -> None:
    (proc / "pressure").mkdir(parents=True, exist_ok=True)
    cpus = sorted(os.sched_getaffinity(0))
    lines = ["cpu  9 9 9 9 9 9 9 9 0 0"]
    lines += [f"cpu{cpu} {busy} 0 0 50 0 0 0 {steal} 0 0" for cpu in cpus]
    lines += ["cpu9999 100000 0 0 0 0 0 0 100000 0 0", "procs_running 3"]
    (proc / "stat").write_text("\n".join(lines) + "\n")
    (proc / "pressure" / "cpu").write_text(
        f"some avg10=0.00 avg60=0.00 avg300=0.00 total={waited_us}\nfull avg10=0 total=77\n"
    )
    (proc / "cpuinfo").write_text("cpu MHz\t\t: 2000.0\ncpu MHz\t\t: 3000.0\n")
    (proc / "cpu.stat").write_text(f"usage_usec 5\nthrottled_usec {throttled_us}\n")


def test_counters_are_read_of_the_processors_that_this_process_may_use(tmp_path: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    plant(tmp_path, 10 * tick, 0, 0, 0)
    meter = Meter(tmp_path, tmp_path)
    before = replace(meter.read(), wall_s=meter.read().wall_s - 10)  # as if ten seconds ago
    plant(tmp_path, 15 * tick, tick, 4_000_000, 1_000_000)
    load = meter.since(before)
    count = len(os.sched_getaffinity(0))
    assert load.processors == count
    assert load.others == pytest.approx(0.5 * count, rel=0.05)
    assert load.stolen == pytest.approx(0.1 * count, rel=0.05)
    assert load.waiting == pytest.approx(0.4, rel=0.05)
    assert load.throttled == pytest.approx(0.1, rel=0.05)
    assert (load.runnable, load.mhz) == (3, 2500.0)


def test_a_system_that_reports_nothing_is_not_called_disturbed(tmp_path: Path) -> None:
    meter = Meter(tmp_path, tmp_path)
    load = meter.since(meter.read())
    assert (load.others, load.stolen, load.waiting, load.runnable) == (None,) * 4
    assert not load.disturbances(1)


def test_version_1_of_control_groups_counts_in_nanoseconds(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("nr_periods 5\nnr_throttled 2\nthrottled_time 2500000000\n")
    assert Meter(tmp_path, tmp_path).read().throttled_s == 2.5


def test_a_spinning_process_is_seen() -> None:
    meter = Meter()
    if meter.read().busy_s is None:
        pytest.skip("the kernel does not count busy time here")
    spin = "import time; t = time.time()\nwhile time.time() < t + 20: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", spin]) for _ in range(len(meter.processors) + 1)
    ]
    try:
        before = meter.read()
        deadline = before.wall_s + 0.6
        while (now := meter.read()).wall_s < deadline:
            pass
        load = meter.since(before)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert isinstance(now, Counters)
    assert load.disturbances(len(meter.processors))[0].startswith("other processes")
