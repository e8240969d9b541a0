"""What the numbers were measured on. Recorded with every run; names no host and no user."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

_PACKAGES = (
    "resnext-toolkit", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt",
    "tensorrt_rtx", "numpy",
)  # fmt: skip


class Gpu(BaseModel):
    """One GPU, as NVML describes it.

    Attributes:
        name: product name.
        memory_bytes: total memory.
        driver: driver version.
        sm_clock_mhz: clock of the multiprocessors when the run began.
        max_sm_clock_mhz: highest clock.
        power_limit_w: enforced power limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_bytes: int | None
    driver: str
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    power_limit_w: float | None = None


class Environment(BaseModel):
    """Machine and software of a run.

    Attributes:
        cpu: processor's brand, model number and widest vector extension.
        physical_cores: cores that this process may use.
        memory_bytes: of the machine.
        load_1min: load average when the run began; well above 0 means that the machine was not alone.
        governor: CPU frequency governor, where the system tells.
        gpus: GPUs that the driver shows.
        system: operating system and kernel.
        python: interpreter version.
        packages: versions of what was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    physical_cores: int
    memory_bytes: int
    load_1min: float
    governor: str | None
    gpus: tuple[Gpu, ...]
    system: str
    python: str
    packages: dict[str, str]

    def title(self) -> str:
        """One line that names the machine."""
        gpus = ", ".join(gpu.name for gpu in self.gpus)
        return f"{gpus + '; ' if gpus else ''}{self.cpu}, {self.physical_cores} cores"


def record_environment() -> Environment:
    """Look at this machine now."""
    import psutil

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Environment(
        cpu=_cpu(),
        physical_cores=min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0))),
        memory_bytes=psutil.virtual_memory().total,
        load_1min=os.getloadavg()[0],
        governor=governor.read_text().strip() if governor.is_file() else None,
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        python=platform.python_version(),
        packages=packages,
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
        name = facts["model name"]
        flags = facts.get("flags", "").split()
    except (OSError, KeyError):
        from cpuinfo import get_cpu_info  # takes about a second, so only where the kernel does not tell

        facts = get_cpu_info()
        name, flags = str(facts.get("brand_raw", platform.processor())), list(facts.get("flags", ()))
    widest = next((flag for flag in ("amx_int8", "avx512_vnni", "avx512f", "avx2", "asimd") if flag in flags), None)
    detail = [f"family {facts['cpu family']} model {facts['model']}"] if {"cpu family", "model"} <= set(facts) else []
    return f"{name} ({', '.join(detail + ([widest] if widest else []))})"


def _gpus() -> tuple[Gpu, ...]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVML raises its own errors where there is no driver; then there is no GPU to record
        return ()

    def ask(call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except pynvml.NVMLError:  # shared, virtual and integrated GPUs answer only some questions
            return None

    try:
        found = []
        for index in range(ask(pynvml.nvmlDeviceGetCount) or 0):
            handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
            memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
            power_mw = ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
            found.append(
                Gpu(
                    name=_text(ask(pynvml.nvmlDeviceGetName, handle) or "unnamed GPU"),
                    memory_bytes=None if memory is None else int(memory.total),
                    driver=_text(ask(pynvml.nvmlSystemGetDriverVersion) or "unknown"),
                    sm_clock_mhz=ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
                    max_sm_clock_mhz=ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
                    power_limit_w=None if power_mw is None else power_mw / 1000,
                )
            )
        return tuple(found)
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
