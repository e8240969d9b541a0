"""Hardware and software of a run. Recorded with every run; contains no host or user name."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ConfigDict

from .machine import this_platform
from .nvml import Gpu, Nvml
from .threads import physical_cores

#: Distributions by the module that they install.
PACKAGES = {
    "resnext": ("resnext-toolkit",),
    "torch": ("torch",),
    "triton": ("triton",),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx",),
    "numpy": ("numpy",),
}


class Environment(BaseModel):
    """Machine and software of a run.

    Attributes:
        cpu: processor's brand, model number and widest vector extension.
        physical_cores: cores that this process may use.
        memory_bytes: memory of the machine.
        load_1min: load average when the run began; well above 0 means that something else was
            running.
        governor: CPU frequency governor, or None if unknown.
        gpus: GPUs that the driver lists.
        system: operating system and kernel.
        python: interpreter version.
        packages: versions of the libraries that compute, by distribution.
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
        """The machine in one line."""
        gpus = ", ".join(gpu.name for gpu in self.gpus)
        return f"{gpus + '; ' if gpus else ''}{self.cpu}, {self.physical_cores} cores"


def record_environment(nvml: Nvml) -> Environment:
    """Record this machine's current state."""
    import psutil

    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Environment(
        cpu=_cpu(),
        physical_cores=len(physical_cores()),
        memory_bytes=psutil.virtual_memory().total,
        load_1min=os.getloadavg()[0],
        governor=governor.read_text().strip() if governor.is_file() else None,
        gpus=nvml.gpus(),
        system=f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        python=platform.python_version(),
        packages=record_packages(),
    )


def record_packages() -> dict[str, str]:
    """Versions by distribution: those of imported modules, and the installed ones of the others.

    Imports nothing. A folder on the path can hide an installed package, so call it after opening
    sessions.
    """
    return versions_of(PACKAGES)


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """As `record_packages`, of these modules: keys of `PACKAGES`."""
    versions: dict[str, str] = {}
    for module_name in modules:
        names, installed = PACKAGES[module_name], {}
        for name in names:
            try:
                installed[name] = version(name)
            except PackageNotFoundError:
                continue
        module = sys.modules.get(module_name)
        own = getattr(module, "__version__", None)
        if module is None or own is None:
            versions.update(installed)
        else:
            versions[_distribution(module, tuple(installed) or names)] = str(own)
    return versions


def _distribution(module: ModuleType, names: tuple[str, ...]) -> str:
    """The distribution of an imported module: ONNX Runtime's two wheels install the same folder."""
    if len(names) == 1:
        return names[0]
    return (
        "onnxruntime-gpu"
        if "CUDAExecutionProvider" in module.get_available_providers()
        else "onnxruntime"
    )


def cpu_capability() -> str:
    """Platform and widest vector extension, for example ``linux-x86_64 avx512_vnni``."""
    found = widest(_cpu_facts()[1])
    return f"{this_platform()} {found or 'without known vector extensions'}"


def cpu_features() -> frozenset[str]:
    """Features of the processor in the kernel's names; empty if the system does not list them."""
    facts, features = _cpu_facts()
    return frozenset(features or facts.get("Features", "").split())


def widest(features: Collection[str]) -> str | None:
    """The widest vector extension among ``features`` of a processor, in the kernel's names; None if
    it has none that is known.
    """
    known = ("amx_int8", "avx512_vnni", "avx512f", "avx2", "asimd")
    return next((flag for flag in known if flag in features), None)


def _cpu() -> str:
    facts, flags = _cpu_facts()
    extension = widest(flags)
    detail = (
        [f"family {facts['cpu family']} model {facts['model']}"]
        if {"cpu family", "model"} <= set(facts)
        else []
    )
    return f"{facts['model name']} ({', '.join(detail + ([extension] if extension else []))})"


def _cpu_facts() -> tuple[dict[str, str], list[str]]:
    """The kernel's facts about the first processor, with at least its ``model name``, and its
    features.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in lines)
            if value
        }
        facts["model name"]  # the look-up is the test
        return facts, facts.get("flags", "").split()
    except (OSError, KeyError):
        from cpuinfo import get_cpu_info

        # takes about a second, so only if the kernel does not say
        info = get_cpu_info()
        return {"model name": str(info.get("brand_raw", platform.processor()))}, list(
            info.get("flags", ())
        )
