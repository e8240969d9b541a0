"""Joules an image from planted counters: the right ones, or a reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fakes.calm import calm
from fakes.simulated import Machine, SimulatedSession
from resnext.machine.energy import Packages, energy_sources
from resnext.machine.nvml import Nvml
from resnext_bench import benchmark
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples, Subject
from resnext_bench.plan import Case
from resnext_bench.report import text
from resnext_bench.scenarios.energy import Energy
from resnext_bench.scenarios.energy_record import EnergyRecord
from resnext_bench.scenarios.scenario import Stage, go_through

SECOND = 10**9
RANGE_UJ = 262_143_328_850


class Library:
    """NVML of one GPU, whose power depends on whether the machine works.

    Args:
        machine: the clock.
        missing: functions that this GPU does not answer.
    """

    class NVMLError(Exception):
        """NVML's error."""

    def __init__(self, machine: Working, *missing: str) -> None:
        self.machine, self.missing = machine, missing

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  # NVML's name, like the others
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, _: int) -> int:  # noqa: N802
        if "energy" in self.missing:
            raise self.NVMLError
        return int(self.machine.joules * 1000)

    def nvmlDeviceGetPowerUsage(self, _: int) -> int:  # noqa: N802
        if "power" in self.missing:
            raise self.NVMLError
        return int(self.machine.watts * 1000)


class Working(Machine):
    """A machine that uses 50 W if it is idle and 300 W while it works."""

    def __init__(self) -> None:
        super().__init__(0)
        self.joules, self.watts = 1e6, 50.0

    def spend(self, seconds: float, watts: float) -> None:
        """Let time pass."""
        self.now += int(seconds * SECOND)
        self.joules += seconds * watts
        self.watts = watts

    def sleep(self, seconds: float) -> None:
        """Idle."""
        self.spend(seconds, 50.0)


class Worker(SimulatedSession):
    """A session whose runs of 8 images take 10 ms at 300 W."""

    def __init__(self, machine: Working) -> None:
        super().__init__(machine, lambda _: 0)
        self._working = machine

    def run(self, inputs: Any) -> Any:
        """Work."""
        self._working.spend(0.01, 300.0)
        return super().run(inputs)

    def apply(self, images: Any) -> Any:
        """Work, bound."""
        self._working.spend(0.01, 300.0)
        return super().apply(images)


def measured(
    monkeypatch: pytest.MonkeyPatch,
    machine: Working,
    *missing: str,
    stream: int | None = None,
    deadline: Deadline | None = None,
) -> EnergyRecord | None:
    @contextmanager
    def nvml() -> Iterator[Nvml]:
        yield Nvml(Library(machine, *missing))

    monkeypatch.setattr("resnext.timing.clock.now_ns", machine.read)
    clock = SimpleNamespace(monotonic=lambda: machine.now / SECOND)
    monkeypatch.setattr("resnext.machine.energy.time", clock)
    session = Worker(machine)
    session.cuda_stream = stream
    inputs = {"input": np.zeros((8, 1), np.float32)}
    none: Any = None
    subject = Subject(session, inputs, session.bind(inputs))
    return Energy(nvml, machine.sleep)(
        Stage(Case("fake", 8), subject, Samples(), none, None, 0, deadline or Deadline())
    )


def planted(folder: Path, packages: int = 2, used: int = 1000) -> Path:
    """A tree of the kernel's power capping: packages with the memory below them, and the platform
    as a whole.
    """
    for index in range(packages):
        for name, label in ((f"{index}", f"package-{index}"), (f"{index}:0", "dram")):
            domain = folder / f"intel-rapl:{name}"
            domain.mkdir(parents=True)
            (domain / "name").write_text(f"{label}\n")
            (domain / "energy_uj").write_text(f"{used}\n")
            (domain / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    other = folder / f"intel-rapl:{packages}"
    other.mkdir()
    (other / "name").write_text("psys\n")
    return folder


def use(folder: Path, package: int, joules: float) -> None:
    counter = folder / f"intel-rapl:{package}" / "energy_uj"
    counter.write_text(str((int(counter.read_text()) + int(joules * 1e6)) % RANGE_UJ))


@pytest.fixture(autouse=True)
def powercap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the kernel's counters are looked for: none at first."""
    folder = tmp_path / "powercap"
    monkeypatch.setattr("resnext.machine.energy.POWERCAP", folder)
    return folder


def test_joules_of_a_gpu_are_those_that_it_used(monkeypatch: pytest.MonkeyPatch) -> None:
    record = measured(monkeypatch, Working(), stream=7)
    assert record is not None
    (gpu,) = record.uses
    assert (gpu.source, gpu.method, gpu.reason) == ("GPU", "NVML's counter", "")
    assert gpu.joules_per_image == pytest.approx(0.01 * 300 / 8, rel=0.01)
    assert gpu.idle_w == pytest.approx(50, rel=0.01)
    assert gpu.power_w == pytest.approx(300, rel=0.01)
    assert gpu.above_idle == pytest.approx(0.01 * 250 / 8, rel=0.01)
    assert 2.0 <= record.seconds < 2.2
    assert record.images == pytest.approx(record.seconds / 0.01 * 8)


def test_power_is_sampled_if_there_is_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    record = measured(monkeypatch, Working(), "energy", stream=7)
    assert record is not None
    (gpu,) = record.uses
    assert gpu.method == "NVML's power, sampled"
    assert gpu.joules_per_image == pytest.approx(0.01 * 300 / 8, rel=0.05)
    assert gpu.idle_w == pytest.approx(50, rel=0.05)


def test_a_gpu_that_tells_nothing_is_said_so_and_a_cpu_without_counters_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = measured(monkeypatch, Working(), "energy", "power", stream=7)
    assert record is not None
    assert record.uses == ()
    assert record.problems == ("GPU: NVML reports neither energy nor power",)
    assert measured(monkeypatch, Working()) is None


def test_packages_are_added_up_and_wrap_around(powercap: Path) -> None:
    planted(powercap, used=RANGE_UJ - 5_000_000)
    domains = [powercap / f"intel-rapl:{index}" for index in range(2)]
    packages = Packages(domains)
    use(powercap, 0, 3.0)
    assert packages.read() == pytest.approx(3.0)
    use(powercap, 0, 4.0)
    use(powercap, 1, 10.0)
    assert packages.read() == pytest.approx(17.0)


def test_a_counter_that_began_anew_is_no_wrap(powercap: Path) -> None:
    planted(powercap, used=5_000_000)
    packages = Packages([powercap / f"intel-rapl:{index}" for index in range(2)])
    (powercap / "intel-rapl:1" / "energy_uj").write_text("1000")
    with pytest.raises(OSError, match="it moved by 262138 J at once"):
        packages.read()
    use(powercap, 1, 2.0)
    assert packages.read() == pytest.approx(2.0)


def test_a_reset_in_the_pass_gives_no_number(
    monkeypatch: pytest.MonkeyPatch, powercap: Path
) -> None:
    planted(powercap, packages=1, used=5_000_000)
    spend = Working.spend

    def spend_and_reset(self: Working, seconds: float, watts: float) -> None:
        spend(self, seconds, watts)
        if watts > 50:
            (powercap / "intel-rapl:0" / "energy_uj").write_text("1000")

    monkeypatch.setattr(Working, "spend", spend_and_reset)
    record = measured(monkeypatch, Working())
    assert record is not None
    assert record.uses[0].joules_per_image is None
    assert record.uses[0].reason.startswith("the counter cannot be read any more: it moved by")


def test_only_packages_count(powercap: Path) -> None:
    planted(powercap)
    (powercap / "intel-rapl-mmio:0").mkdir()
    (powercap / "intel-rapl-mmio:0" / "name").write_text("package-0\n")
    ((source,), problems) = energy_sources(Nvml(None), gpu=False)
    assert problems == []
    before = source.read()
    for name in ("intel-rapl:0:0", "intel-rapl:1:0"):
        (powercap / name / "energy_uj").write_text("999999999")
    assert source.read() == before
    use(powercap, 1, 2.0)
    assert source.read() - before == pytest.approx(2.0)


def test_a_cpu_row_from_the_kernel_s_counters(
    monkeypatch: pytest.MonkeyPatch, powercap: Path
) -> None:
    machine = Working()
    planted(powercap, packages=1)
    spend = Working.spend

    def spend_and_count(self: Working, seconds: float, watts: float) -> None:
        spend(self, seconds, watts)
        use(powercap, 0, seconds * watts)

    monkeypatch.setattr(Working, "spend", spend_and_count)
    record = measured(monkeypatch, machine)
    assert record is not None
    (cpu,) = record.uses
    assert (cpu.source, cpu.method) == ("CPU", "RAPL")
    assert cpu.joules_per_image == pytest.approx(0.01 * 300 / 8, rel=0.01)
    assert cpu.above_idle == pytest.approx(0.01 * 250 / 8, rel=0.01)


def test_a_counter_that_stands_still_is_no_zero(
    monkeypatch: pytest.MonkeyPatch, powercap: Path
) -> None:
    planted(powercap)
    record = measured(monkeypatch, Working())
    assert record is not None
    (cpu,) = record.uses
    assert (cpu.joules_per_image, cpu.above_idle, cpu.power_w) == (None, None, None)
    assert cpu.reason == "the counter stood still for 2.0 s of work"


def test_a_counter_that_goes_backwards_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Working()
    spend = Working.spend

    def reset(self: Working, seconds: float, watts: float) -> None:
        spend(self, seconds, watts)
        if watts > 50:
            self.joules -= 10

    monkeypatch.setattr(Working, "spend", reset)
    record = measured(monkeypatch, machine, stream=7)
    assert record is not None
    assert record.uses[0].joules_per_image is None
    assert record.uses[0].reason == "the counter went backwards"


@pytest.mark.parametrize("content", ["", "many", None])
def test_a_counter_that_cannot_be_read_is_said_once(
    monkeypatch: pytest.MonkeyPatch, powercap: Path, content: str | None
) -> None:
    planted(powercap)
    for index in range(2):
        counter = powercap / f"intel-rapl:{index}" / "energy_uj"
        counter.unlink() if content is None else counter.write_text(content)
    record = measured(monkeypatch, Working())
    assert record is not None
    assert record.uses == ()
    (problem,) = record.problems
    assert problem.startswith("CPU: the RAPL counters cannot be read: ")


def test_counters_for_root_alone(monkeypatch: pytest.MonkeyPatch, powercap: Path) -> None:
    planted(powercap)
    read = Path.read_text

    def as_a_user(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, os.strerror(13), str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    sources, problems = energy_sources(Nvml(None), gpu=False)
    assert (sources, problems) == ([], ["CPU: only root may read the RAPL counters (energy_uj)"])


def test_a_counter_that_vanishes_meanwhile(monkeypatch: pytest.MonkeyPatch, powercap: Path) -> None:
    planted(powercap, packages=1)
    machine = Working()
    spend = Working.spend

    def spend_and_remove(self: Working, seconds: float, watts: float) -> None:
        spend(self, seconds, watts)
        if watts > 50:
            (powercap / "intel-rapl:0" / "energy_uj").unlink(missing_ok=True)

    monkeypatch.setattr(Working, "spend", spend_and_remove)
    record = measured(monkeypatch, machine)
    assert record is not None
    assert record.uses[0].joules_per_image is None
    assert record.uses[0].reason.startswith("the counter cannot be read any more")


def test_out_of_time_it_is_left_out_without_an_error(
    monkeypatch: pytest.MonkeyPatch, powercap: Path
) -> None:
    none: Any = None
    stage = Stage(none, none, Samples(), none, None, 0, Deadline(0.0))
    passes = go_through([Energy()], stage)
    assert (passes.records, passes.errors) == ({}, {})
    planted(powercap)
    cut = measured(monkeypatch, Working(), deadline=Deadline(0.0))
    assert cut is not None
    assert cut.uses[0].reason == "the pass was cut short"


def test_a_run_reports_it_by_itself(monkeypatch: pytest.MonkeyPatch, powercap: Path) -> None:
    calm(monkeypatch)
    monkeypatch.setattr("resnext_bench.scenarios.energy._PASS_S", 0.02)
    monkeypatch.setattr("resnext_bench.scenarios.energy._LEAST_S", 0.0)
    monkeypatch.setattr("resnext_bench.scenarios.energy._IDLE_S", 0.02)
    options: dict[str, Any] = {"duration": 0.01, "rounds": 2, "warmup": 0.0}
    (without,) = benchmark("torch", weights="digits", **options).rows
    assert without.energy is None
    planted(powercap, packages=1)
    readings = iter(range(1000, 10**9, 5000))
    read = Path.read_text

    def moving(path: Path, *arguments: Any, **settings: Any) -> str:
        if path.name == "energy_uj":
            return str(next(readings))
        return read(path, *arguments, **settings)

    monkeypatch.setattr(Path, "read_text", moving)
    run = benchmark("torch", weights="digits", **options)
    (row,) = run.rows
    assert row.energy is not None
    for report in (text(run), run.markdown()):
        assert "Energy" in report
        assert "torch batch 1: CPU " in report
        assert " J an image, " in report
        assert "RAPL" in report
