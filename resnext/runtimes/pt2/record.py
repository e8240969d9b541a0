"""Which machines can load an AOTInductor package (.pt2), decided without importing PyTorch.

A package is code for one kind of machine, but PyTorch does not refuse it on another: if a processor
lacks its instructions, PyTorch warns at most, and the process dies of SIGILL. So a package records
its requirements, and they are checked before it is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from resnext.artifact.manifest import Manifest
from resnext.artifact.records import PackageRecord
from resnext.findings import Finding
from resnext.machine.machine import Host, this_platform
from resnext.runtimes.loading import again


def this_host() -> Host:
    """The facts about this machine that packages depend on; imports PyTorch."""
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
    """Features of this machine's processor, in the Linux kernel's names; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split())


def loadable(manifest: Manifest, host: Host) -> tuple[Finding, ...]:
    """Why ``host`` cannot run the package of ``manifest``; empty if nothing is known against it.

    PyTorch only promises that a package runs on the version that compiled it.
    """
    record = manifest.package
    assert record is not None
    if record.device == "cuda" and host.compute_capability is None:
        return (
            Finding(
                "no-cuda",
                "it runs on a CUDA device, and PyTorch can use none here",
                "run it on a machine with a GPU and a CUDA build of PyTorch, or export it again on"
                " this machine for `device` cpu",
            ),
        )
    remedy = (
        f"{again(manifest)}, or run it where it was made for: PyTorch {_public(record.torch)},"
        f" {record.platform}"
    )
    reasons = [*_reasons(record, host), *_gpu_reasons(record, host)]
    return tuple(Finding(code, reason, remedy) for code, reason in reasons)


def _reasons(record: PackageRecord, host: Host) -> list[tuple[str, str]]:
    """Codes and messages about PyTorch and the processor."""
    reasons = []
    if _public(record.torch) != _public(host.torch):
        reason = f"it was compiled by PyTorch {record.torch}, installed is {host.torch}"
        reasons.append(("other-version", reason))
    if record.platform != host.platform:
        reason = f"it was compiled on {record.platform}, this is {host.platform}"
        reasons.append(("other-platform", reason))
    elif lacking := sorted(set(record.cpu_flags) - host.cpu_flags) if host.cpu_flags else []:
        reason = f"its code may use {', '.join(lacking)}, which this processor lacks"
        reasons.append(("other-processor", reason))
    elif not (record.cpu_flags and host.cpu_flags) and record.cpu_capability != host.cpu_capability:
        reason = (
            f"it was compiled for {record.cpu_capability}, this processor has {host.cpu_capability}"
        )
        reasons.append(("other-processor", reason))
    return reasons


def _gpu_reasons(record: PackageRecord, host: Host) -> list[tuple[str, str]]:
    reasons: list[tuple[str, str]] = []
    if record.device != "cuda":
        return reasons
    if host.compute_capability != record.compute_capability:
        reason = (
            f"it was compiled for compute capability {record.compute_capability} ({record.gpu}), "
            f"this GPU has {host.compute_capability}"
        )
        reasons.append(("other-gpu", reason))
    if (record.cuda or "").partition(".")[0] != (host.cuda or "").partition(".")[0]:
        reason = f"it was compiled for CUDA {record.cuda}, this PyTorch is for CUDA {host.cuda}"
        reasons.append(("other-version", reason))
    return reasons


def _public(version: str) -> str:
    """A version without the build after ``+``: CPU and CUDA builds have the same source."""
    return version.partition("+")[0]
