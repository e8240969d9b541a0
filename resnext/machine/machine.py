"""This machine's facts, asked once and passed on; never imports a framework."""

from __future__ import annotations

import functools
import platform
import sys
from dataclasses import dataclass

from . import cuda_driver


@dataclass(frozen=True)
class Host:
    """The facts that PyTorch's compiled code depends on.

    Attributes:
        torch: version of PyTorch.
        cuda: version of CUDA that PyTorch was built for, or None.
        platform: for example ``linux-x86_64``.
        cpu_capability: PyTorch's name for the processor's vector instructions.
        cpu_flags: features of the processor, in the kernel's names; empty if the system does not
            list them.
        compute_capability: compute capability of the first GPU, for example ``9.0``, or None if
            PyTorch can use none.
    """

    torch: str
    cuda: str | None
    platform: str
    cpu_capability: str
    cpu_flags: frozenset[str]
    compute_capability: str | None


@dataclass(frozen=True)
class Machine:
    """The facts about a machine that decide whether an artifact runs on it.

    Attributes:
        driver: the CUDA driver's answers.
        platform: for example ``linux-x86_64``.
        version: installed version of the library for the engine in question, or None.
        cuda: major version of CUDA that this library was built for, or None if unknown.
        host: see `Host`; only set for packages, because it requires importing PyTorch.
    """

    driver: cuda_driver.Driver
    platform: str
    version: str | None = None
    cuda: int | None = None
    host: Host | None = None


def this_machine() -> Machine:
    """Driver and platform of this machine."""
    return Machine(cuda_driver.probe_driver(), this_platform())


@functools.lru_cache(maxsize=1)
def this_platform() -> str:
    """Operating system and processor, for example ``linux-x86_64``."""
    return f"{sys.platform}-{platform.machine().lower()}"
