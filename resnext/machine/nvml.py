"""NVML's facts about the GPUs, and their state during a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

#: Reasons for clocks below the maximum, by NVML's bits. Not 0x1, idle: the GPU is idle when it is
#: asked.
_LIMITS = {
    0x2: "set clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
#: Limits under which a sample does not show what the GPU can do.
_THROTTLING = frozenset(
    {"hardware slowdown", "software thermal", "hardware thermal", "power brake", "reliability"}
)


class Gpu(BaseModel):
    """One GPU, as NVML describes it.

    Attributes:
        name: product name.
        memory_bytes: total memory.
        driver: driver version.
        sm_clock_mhz: clock of the multiprocessors when the run began, usually an idle clock.
        max_sm_clock_mhz: maximum clock.
        power_limit_w: enforced power limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_bytes: int | None
    driver: str
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    power_limit_w: float | None = None


class GpuState(BaseModel):
    """State of the GPU right after the timed runs of one visit; None if NVML does not say.

    Attributes:
        sm_clock_mhz: clock of the multiprocessors.
        power_w: power draw; newer GPUs report the mean of the last second.
        temperature_c: temperature of the chip.
        limits: reasons for clocks below the maximum.
        other_processes: processes with a context on it besides this one; None if NVML does not
            list them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sm_clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    limits: tuple[str, ...] = ()
    other_processes: int | None = None

    def disturbances(self) -> list[str]:
        """What kept the GPU below its speed for reasons outside the work, in words. The power cap
        is none of them: under full load it is how the card runs.
        """
        throttled = [limit for limit in self.limits if limit in _THROTTLING]
        return [f"GPU clocks held down ({', '.join(throttled)})"] if throttled else []


class Nvml:
    """An initialized NVML library, or None if there is none: then all answers are empty."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs that the driver lists."""
        return tuple(self._describe(index) for index in range(self._count))

    def persistence(self) -> bool | None:
        """Whether every GPU keeps its state between processes; None if NVML does not say."""
        handles = [self._ask("nvmlDeviceGetHandleByIndex", index) for index in range(self._count)]
        modes = [self._ask("nvmlDeviceGetPersistenceMode", handle) for handle in handles]
        return None if not modes or None in modes else all(modes)

    def state(self) -> GpuState | None:
        """Current state of the first CUDA device; None if NVML does not know it."""
        if self._measured is None:
            return None
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._measured)
        if bits is None:  # before driver 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._measured)
        return GpuState(
            sm_clock_mhz=self._ask(
                "nvmlDeviceGetClockInfo", self._measured, self._library.NVML_CLOCK_SM
            ),
            power_w=self.power_w(),
            temperature_c=self._ask(
                "nvmlDeviceGetTemperature", self._measured, self._library.NVML_TEMPERATURE_GPU
            ),
            limits=tuple(name for bit, name in _LIMITS.items() if (bits or 0) & bit),
            other_processes=self._others(),
        )

    def energy_mj(self) -> int | None:
        """Millijoules that the first CUDA device has used since its driver was loaded; None before
        Volta, and if NVML does not say.
        """
        if self._measured is None:
            return None
        energy = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._measured)
        return None if energy is None else int(energy)

    def power_w(self) -> float | None:
        """Power draw of the first CUDA device; None if NVML does not say."""
        if self._measured is None:
            return None
        power_mw = self._ask("nvmlDeviceGetPowerUsage", self._measured)
        return None if power_mw is None else power_mw / 1000

    def _others(self) -> int | None:
        """Compute processes less this one, which has a context by the time that it measures. In a
        container NVML gives process ids of the host, so they are counted and not compared.
        """
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses", self._measured)
        return None if processes is None else max(0, len(processes) - 1)

    def _describe(self, index: int) -> Gpu:
        handle = self._ask("nvmlDeviceGetHandleByIndex", index)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        power_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        return Gpu(
            name=_text(self._ask("nvmlDeviceGetName", handle) or "unnamed GPU"),
            memory_bytes=None if memory is None else int(memory.total),
            driver=_text(self._ask("nvmlSystemGetDriverVersion") or "unknown"),
            sm_clock_mhz=self._ask("nvmlDeviceGetClockInfo", handle, self._library.NVML_CLOCK_SM),
            max_sm_clock_mhz=self._ask(
                "nvmlDeviceGetMaxClockInfo", handle, self._library.NVML_CLOCK_SM
            ),
            power_limit_w=None if power_mw is None else power_mw / 1000,
        )

    @cached_property
    def _count(self) -> int:
        return self._ask("nvmlDeviceGetCount") or 0

    @cached_property
    def _measured(self) -> Any:
        """NVML's handle of CUDA's first device, on which sessions run: the two may list GPUs in
        different orders.
        """
        if self._count == 1:
            return self._ask("nvmlDeviceGetHandleByIndex", 0)
        import torch

        if self._count == 0 or not torch.cuda.is_available():
            return None
        return self._ask(
            "nvmlDeviceGetHandleByUUID", f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        )

    def _ask(self, name: str, *arguments: Any) -> Any:
        if self._library is None:
            return None
        try:
            return getattr(self._library, name)(*arguments)
        # Shared and virtual GPUs answer only some questions.
        except (self._library.NVMLError, AttributeError):
            return None


@contextmanager
def open_nvml() -> Iterator[Nvml]:
    """NVML for the duration of a run: starting it takes milliseconds, a query microseconds."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, or one of NVML's own errors if there is no driver
        yield Nvml(None)
        return
    try:
        yield Nvml(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
