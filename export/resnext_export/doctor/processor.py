"""Threads, memory and instructions of the processor."""

from __future__ import annotations

import os
from collections.abc import Iterator

from resnext.machine.environment import cpu_features
from resnext.machine.machine import this_platform
from resnext.machine.threads import (
    control_groups,
    cpu_quotas,
    own_affinity,
    physical_cores,
    thread_budget,
)

from .facts import Facts
from .observation import Observation, ok, warning

#: Variables by which other libraries choose their own number or place of threads.
_PINNING = ("KMP_AFFINITY", "GOMP_CPU_AFFINITY", "OMP_PROC_BIND", "OMP_PLACES")
_COUNTING = ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Most memory of an export of ResNeXt-50 to ONNX with its check: 1.6 GB, measured.
_EXPORT_BYTES = 1_607_316 << 10
#: Features by what they speed up, in the kernel's names.
_FEATURES = (
    ("avx2", "AVX2"),
    ("avx512f", "AVX-512"),
    ("avx512_vnni", "VNNI (int8)"),
    ("avx_vnni", "AVX-VNNI (int8)"),
    ("avx512_bf16", "bf16"),
    ("amx_int8", "AMX int8"),
    ("amx_bf16", "AMX bf16"),
    ("asimd", "NEON"),
    ("asimddp", "dot product (int8)"),
    ("i8mm", "int8 matrices"),
    ("bf16", "bf16"),
    ("sve", "SVE"),
)
_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


def check_threads(facts: Facts, affinity: frozenset[int] | None = None) -> Iterator[Observation]:
    """The thread budget, and what else changes threads."""
    affinity = own_affinity() if affinity is None else affinity
    budget = thread_budget(facts.root, affinity, facts.environ)
    cores = len(physical_cores(facts.root, affinity))
    yield ok(
        f"threads for each session: {budget.count} ({budget.reason}); cores: {cores}, logical CPUs:"
        f" {len(affinity)}"
    )
    quotas = list(cpu_quotas(facts.root))
    if quotas and min(quotas) < 1:
        yield warning(
            "small-quota",
            f"the cgroup quota is {min(quotas):.2g} CPUs: every time varies",
            "give the container at least one CPU: docker `cpus` 2",
        )
    wanted = facts.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted and not (wanted.isascii() and wanted.isdigit() and int(wanted)):
        yield warning(
            "no-number",
            f"OMP_NUM_THREADS is {wanted!r}, no number of threads",
            "unset OMP_NUM_THREADS",
        )
    elif wanted and int(wanted) > cores:
        yield warning(
            "too-many-threads",
            f"OMP_NUM_THREADS={wanted} is more than the {cores} cores; sessions use"
            f" {budget.count}, other libraries do not",
            f"export OMP_NUM_THREADS={cores}",
        )
    for name in _COUNTING:
        value = facts.environ.get(name)
        if value and value != str(budget.count):
            yield warning(
                "other-threads",
                f"{name}={value} differs from the thread budget of {budget.count}",
                f"unset {name}",
            )
    for name in _PINNING:
        if value := facts.environ.get(name):
            yield warning(
                "pinned-threads",
                f"{name}={value} pins threads, of several sessions to the same cores",
                f"unset {name}",
            )


def check_memory(facts: Facts, total: int | None = None) -> Iterator[Observation]:
    """Memory, and the limit of the cgroup."""
    if total is None:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [total]
    for folder, unified in control_groups(facts.root):
        try:
            text = (folder / ("memory.max" if unified else "memory.limit_in_bytes")).read_text()
        except (OSError, ValueError):
            continue
        if text.strip().isdigit():
            limits.append(int(text))
    least = min(limits)
    why = "the machine's" if least == total else "limit of the cgroup"
    line = f"{least / 2**30:.1f} GiB ({why})"
    if least < _EXPORT_BYTES:
        yield warning(
            "little-memory",
            f"{line}; exporting ResNeXt-50 takes {_EXPORT_BYTES / 2**30:.1f} GiB",
            "give the container or machine more memory",
        )
    else:
        yield ok(line)


def check_features(_: Facts, features: frozenset[str] | None = None) -> Iterator[Observation]:
    """Instructions that decide what a precision gains."""
    features = cpu_features() if features is None else features
    names = dict.fromkeys(title for flag, title in _FEATURES if flag in features)
    if not features:
        yield warning(
            "unknown-features", f"the system does not list the features of {this_platform()}"
        )
    elif not {"avx2", "asimd"} & features:
        yield warning(
            "no-avx2",
            "the processor has no AVX2: everything is slow, and some packages do not start",
            "use a machine made after 2015, or let the virtual machine see the host's processor",
        )
    elif not _INT8 & features:
        yield warning(
            "no-vnni",
            f"{', '.join(names)}; no instructions for int8, which gains little here",
            "measure before you ship int8: `precision` int8",
        )
    else:
        yield ok(", ".join(names))
