"""What an AOTInductor package (.pt2) says of itself, and whether a machine can load it. PyTorch
itself is not needed.

A package is code for one kind of machine. Nothing in PyTorch refuses it on another: where a
processor lacks the instructions that it was compiled for, PyTorch warns at most, and the process
dies of SIGILL. So what a package hangs on is written into it, and asked before it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from resnext.artifact.records import PackageRecord
from resnext.errors import MissingRequirement
from resnext.runtimes.trt.library import this_platform


@dataclass(frozen=True)
class Host:
    """What a package meets.

    Attributes:
        torch: version of PyTorch.
        cuda: version of CUDA that it was built for, or None.
        platform: as ``linux-x86_64``.
        cpu_capability: PyTorch's name of the processor's vector instructions.
        cpu_flags: features of the processor, by the kernel's names; empty where the system does not
            tell.
        compute_capability: of the first GPU, as ``9.0``, or None where PyTorch can use none.
    """

    torch: str
    cuda: str | None
    platform: str
    cpu_capability: str
    cpu_flags: frozenset[str]
    compute_capability: str | None


def this_host() -> Host:
    """What a package meets here; imports PyTorch."""
    import torch

    capability = None
    if torch.cuda.is_available():
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
    return Host(
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        platform=this_platform(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        cpu_flags=cpu_flags(),
        compute_capability=capability,
    )


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Features of this machine's processor, by the Linux kernel's names; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())


def obstacles(record: PackageRecord, host: Host) -> tuple[str, ...]:
    """Why ``host`` cannot run the package; empty where nothing is known against it.

    PyTorch promises no more than that a package runs on the version that compiled it.
    """
    found = []
    if _public(record.torch) != _public(host.torch):
        found.append(f"it was compiled by PyTorch {record.torch}, installed is {host.torch}")
    if record.platform != host.platform:
        found.append(f"it was compiled on {record.platform}, this is {host.platform}")
    elif lacking := sorted(set(record.cpu_flags) - host.cpu_flags) if host.cpu_flags else []:
        found.append(f"its code may use {', '.join(lacking)}, which this processor lacks")
    elif not (record.cpu_flags and host.cpu_flags) and record.cpu_capability != host.cpu_capability:
        found.append(
            f"it was compiled for {record.cpu_capability}, this processor has {host.cpu_capability}"
        )
    if record.device == "cuda":
        found += _gpu_obstacles(record, host)
    return tuple(found)


def _gpu_obstacles(record: PackageRecord, host: Host) -> list[str]:
    if host.compute_capability is None:
        return ["it runs on a CUDA device, and PyTorch can use none here"]
    found = []
    if host.compute_capability != record.compute_capability:
        found.append(
            f"it was compiled for compute capability {record.compute_capability} ({record.gpu}), "
            f"this GPU has {host.compute_capability}"
        )
    if (record.cuda or "").partition(".")[0] != (host.cuda or "").partition(".")[0]:
        found.append(
            f"it was compiled for CUDA {record.cuda}, this PyTorch is for CUDA {host.cuda}"
        )
    return found


def refuse_if_not_loadable(record: PackageRecord, host: Host) -> None:
    """Check that ``host`` can run the package.

    Raises:
        MissingRequirement: with every reason, and what to do.
    """
    if reasons := obstacles(record, host):
        raise MissingRequirement(
            f"this machine cannot load the package: {'; '.join(reasons)}. To do: export it again on"
            " this machine (--format pt2), or run it where it was made for: PyTorch"
            f" {_public(record.torch)}, {record.platform}"
        )


def _public(version: str) -> str:
    """A version without the build that is named after ``+``: CPU and CUDA builds are of the same
    source.
    """
    return version.partition("+")[0]
