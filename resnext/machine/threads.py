"""The thread budget: how many CPU threads a session gets, and why. Imports no framework."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


@dataclass(frozen=True)
class ThreadBudget:
    """A number of CPU threads.

    Attributes:
        count: threads, at least 1.
        reason: the limit that this is, for example ``2 physical cores``.
    """

    count: int
    reason: str


def thread_budget(
    root: Path = _ROOT,
    affinity: Collection[int] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ThreadBudget:
    """The least of the physical cores that this process may use, the CPU quotas of its cgroups, and
    ``OMP_NUM_THREADS``.

    Args:
        root: of the kernel's files.
        affinity: numbers of the CPUs that this process may use; None asks the kernel.
        environ: environment variables.
    """
    affinity = own_affinity() if affinity is None else affinity
    cores = len(physical_cores(root, affinity))
    budgets = [ThreadBudget(cores, _cores_reason(root, affinity, cores))]
    if quotas := list(cpu_quotas(root)):
        quota = min(quotas)
        budgets.append(
            ThreadBudget(max(1, int(quota)), f"cgroup quota of {_counted(quota, 'CPU')}")
        )
    requested = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if requested.isascii() and requested.isdigit() and int(requested):
        budgets.append(ThreadBudget(int(requested), f"OMP_NUM_THREADS={int(requested)}"))
    return min(budgets, key=lambda budget: budget.count)


def own_affinity() -> frozenset[int]:
    """Numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))  # macOS has no affinity


def physical_cores(
    root: Path = _ROOT, affinity: Collection[int] | None = None
) -> tuple[frozenset[int], ...]:
    """The cores that this process may use, each with the numbers of those of its CPUs that it may
    use. A CPU whose core is unknown counts as one.

    Args:
        root: of the kernel's files.
        affinity: as in `thread_budget`.
    """
    affinity = own_affinity() if affinity is None else affinity
    cores = {(_core_of(root, cpu) or frozenset((cpu,))).intersection(affinity) for cpu in affinity}
    return tuple(sorted(cores, key=min))


def _cores_reason(root: Path, affinity: Collection[int], cores: int) -> str:
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    all_cores = {_core_of(root, int(folder.name.removeprefix("cpu"))) for folder in folders}
    if len(all_cores - {None}) <= cores:  # None: CPUs that are off
        return _counted(cores, "physical core")
    of_cores = f" on {_counted(cores, 'core')}" if cores < len(affinity) else ""
    return f"affinity to {_counted(len(affinity), 'CPU')}{of_cores}"


def _core_of(root: Path, cpu: int) -> frozenset[int] | None:
    """Numbers of the CPUs that share a core with ``cpu``; None if the kernel does not say."""
    folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):
        ranges = re.findall(r"(\d+)(?:-(\d+))?", _text(folder / name))
        if ranges:
            return frozenset(
                cpu for low, high in ranges for cpu in range(int(low), int(high or low) + 1)
            )
    return None


def cpu_quotas(root: Path) -> Iterator[float]:
    """CPU quotas of this process's cgroups and of all that contain them, in CPUs."""
    for folder, unified in control_groups(root):
        if unified:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        # "max" and -1: no limit
        if quota.strip().isdigit() and period.strip().isdigit() and int(period):
            yield int(quota) / int(period)


def control_groups(root: Path = _ROOT) -> Iterator[tuple[Path, bool]]:
    """Folders of this process's cgroups and of all that contain them, as far as they are mounted,
    and whether they are of version 2.
    """
    own: dict[bool, PurePosixPath] = {}  # by whether it is of version 2, which has no controllers
    text = _text(root / "proc/self/cgroup")
    for controllers, path in re.findall(r"^\d+:([^:\n]*):(/.*)$", text, re.MULTILINE):
        if controllers == "" or "cpu" in controllers.split(","):
            own[controllers == ""] = PurePosixPath(path)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        unified = kind == "cgroup2"
        mounts_cpu = unified or (kind == "cgroup" and "cpu" in re.split("[ ,]", options))
        fields = before.split(" ")
        if not mounts_cpu or unified not in own or len(fields) < 5:
            continue
        folder, group = root / fields[4].lstrip("/"), own[unified]
        yield folder, unified
        # A container may have only its own cgroup mounted, and not know the names above it.
        if group.is_relative_to(fields[3]) and ".." not in group.parts:
            for part in group.relative_to(fields[3]).parts:
                folder /= part
                yield folder, unified


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # this kernel has no such file, or not for this process
        return ""


def _counted(number: float, noun: str) -> str:
    return f"{number:.3g} {noun}{'' if number == 1 else 's'}"
