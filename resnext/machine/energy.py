"""Counters of energy: NVML's of a GPU, and the kernel's of processor packages (RAPL)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .nvml import Nvml

#: A package takes less than so many watts: more between two reads is a counter that began anew.
_MOST_W = 2000.0
#: Readings may be as much nearer to each other than the counter's steps, seconds.
_STEP_S = 0.1
#: The kernel's power capping, of Intel and AMD processors.
POWERCAP = Path("/sys/class/powercap")


class EnergySource(Protocol):
    """Counts joules. Read it at least every few seconds."""

    @property
    def name(self) -> str:
        """What uses the energy."""

    @property
    def method(self) -> str:
        """How it is counted."""

    def read(self) -> float:
        """Joules since a moment that does not matter.

        Raises:
            OSError: the counter cannot be read any more.
        """


@dataclass
class GpuCounter:
    """NVML's counter, of GPUs since Volta. It moves every 20 to 100 ms.

    Attributes:
        nvml: the library; the GPU is the one that sessions run on.
    """

    nvml: Nvml
    name: str = "GPU"
    method: str = "NVML's counter"

    def read(self) -> float:
        """As `EnergySource`."""
        return _known(self.nvml.energy_mj()) / 1000


@dataclass
class GpuPower:
    """NVML's readings of power, summed over the time between two reads.

    Attributes:
        nvml: the library.
    """

    nvml: Nvml
    name: str = "GPU"
    method: str = "NVML's power, sampled"

    def __post_init__(self) -> None:
        self._joules = 0.0
        self._last: tuple[float, float] | None = None

    def read(self) -> float:
        """As `EnergySource`."""
        now, power = time.monotonic(), _known(self.nvml.power_w())
        if self._last is not None:
            then, before = self._last
            self._joules += (now - then) * (power + before) / 2
        self._last = now, power
        return self._joules


class Packages:
    """RAPL's counters of all processor packages, added up; memory outside a package is not in it.

    Args:
        domains: their folders.

    Raises:
        OSError: one cannot be read.
        ValueError: one holds no number.
    """

    name = "CPU"
    method = "RAPL"

    def __init__(self, domains: list[Path]) -> None:
        self._domains = domains
        self._ranges = [_number(domain / "max_energy_range_uj") for domain in domains]
        self._last, self._at = self._readings(), time.monotonic()
        self._joules = 0.0

    def read(self) -> float:
        """As `EnergySource`. A counter that reached its range began again from zero.

        Raises:
            OSError: also if a counter moved by more than a package can use: it began anew.
        """
        now, at = self._readings(), time.monotonic()
        most_j = _MOST_W * (at - self._at + _STEP_S)
        used = [
            ((after - before) if after >= before else after + most - before) / 1e6
            for before, after, most in zip(self._last, now, self._ranges, strict=True)
        ]
        self._last, self._at = now, at
        if max(used) > most_j:
            raise OSError(f"it moved by {max(used):.0f} J at once")
        self._joules += sum(used)
        return self._joules

    def _readings(self) -> list[int]:
        return [_number(domain / "energy_uj") for domain in self._domains]


def energy_sources(
    nvml: Nvml, *, gpu: bool, powercap: Path | None = None
) -> tuple[list[EnergySource], list[str]]:
    """The counters that can be read, and one line for each that is there and cannot.

    Args:
        nvml: the library.
        gpu: whether a GPU does the work.
        powercap: of the kernel; None means `POWERCAP`.
    """
    sources: list[EnergySource] = []
    problems: list[str] = []
    if gpu:
        if nvml.energy_mj() is not None:
            sources.append(GpuCounter(nvml))
        elif nvml.power_w() is not None:
            sources.append(GpuPower(nvml))
        else:
            problems.append("GPU: NVML reports neither energy nor power")
    domains = _packages(powercap or POWERCAP)
    if domains:
        try:
            sources.append(Packages(domains))
        except PermissionError:
            problems.append("CPU: only root may read the RAPL counters (energy_uj)")
        except (OSError, ValueError) as exc:
            problems.append(f"CPU: the RAPL counters cannot be read: {exc}")
    return sources, problems


def _packages(powercap: Path) -> list[Path]:
    """Folders of the packages. Other drivers show the same counters again, as intel-rapl-mmio."""
    packages = []
    for domain in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (domain / "name").read_text().strip()
        except OSError:
            continue
        if name.startswith("package"):
            packages.append(domain)
    return packages


def _number(path: Path) -> int:
    return int(path.read_text())


def _known(value: float | None) -> float:
    if value is None:
        raise OSError("NVML reports no energy any more")
    return value
