"""The thread budget: which limit is the least, from planted kernel files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from resnext.machine.threads import ThreadBudget, physical_cores, thread_budget

V1 = "31 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "30 23 0:26 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
CPU_ONLY = "35 31 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
#: Eight CPUs on four cores; CPU 4 shares the core of CPU 0.
SMT = {cpu: f"{cpu % 4},{cpu % 4 + 4}\n" for cpu in range(8)}
#: Four cores with one hardware thread each.
PLAIN = {cpu: f"{cpu}\n" for cpu in range(4)}


def kernel(
    root: Path,
    cores: dict[int, str],
    cgroup: str = "",
    mounts: Collection[str] = (),
    files: dict[str, str] | None = None,
    *,
    topology: str = "core_cpus_list",
) -> Path:
    """The kernel's files under ``root``: cores, cgroups, their mounts, and files in them."""
    texts = {
        **{
            f"sys/devices/system/cpu/cpu{cpu}/topology/{topology}": text
            for cpu, text in cores.items()
        },
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": "".join(f"{line}\n" for line in mounts),
        **{f"sys/fs/cgroup/{name}": text for name, text in (files or {}).items()},
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "quota"),
    [
        pytest.param("0::/\n", [V2], {"cpu.max": "150000 100000\n"}, "1.5 CPUs", id="v2"),
        pytest.param("0::/\n", [V2], {"cpu.max": "max 100000\n"}, "", id="v2 without limit"),
        pytest.param("0::/\n", [V2], {}, "", id="v2, root of the machine"),
        pytest.param("0::/\n", [V2], {"cpu.max": "50000 100000\n"}, "0.5 CPUs", id="below one"),
        pytest.param("0::/\n", [V2], {"cpu.max": "100000 100000"}, "1 CPU", id="exactly one"),
        pytest.param("0::/\n", [V2], {"cpu.max": "800000 100000"}, "", id="more than the cores"),
        pytest.param("0::/\n", [V2], {"cpu.max": "rubbish"}, "", id="v2 rubbish"),
        pytest.param(
            "0::/a/b\n",
            [V2],
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"},
            "2 CPUs",
            id="v2, of the parent",
        ),
        pytest.param(
            "0::/a/b\n",
            [V2],
            {"a/b/cpu.max": "100000 100000", "a/cpu.max": "200000 100000"},
            "1 CPU",
            id="v2, the least of both",
        ),
        pytest.param(
            "0::/a\n", [V2], {"other/cpu.max": "100000 100000"}, "", id="another process's"
        ),
        pytest.param(
            "4:cpu,cpuacct:/\n",
            [V1],
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            "2.5 CPUs",
            id="v1",
        ),
        pytest.param(
            "4:cpu,cpuacct:/\n",
            [V1],
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            "",
            id="v1 without limit",
        ),
        pytest.param(
            "4:cpuacct,cpu:/docker/x/y\n",
            [V1.replace(" / ", " /docker/x ")],
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/y/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/y/cpu.cfs_period_us": "100000",
            },
            "2 CPUs",
            id="v1, a container below its mount",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/x\n",
            [V1.replace(" / ", " /docker/x ")],
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            "2 CPUs",
            id="v1, a container",
        ),
        pytest.param(
            "3:cpuset:/\n4:cpu,cpuacct:/a\n0::/b\n",
            [CPU_ONLY, V1, UNIFIED],
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                "unified/b/cpu.max": "100000 100000",
                "unified/a/cpu.max": "1 100000",
            },
            "1 CPU",
            id="hybrid",
        ),
        pytest.param("0::/../x\n", [V2], {"cpu.max": "200000 100000"}, "2 CPUs", id="outside"),
        pytest.param("", [], {}, "", id="no cgroups"),
    ],
)
def test_a_cgroup_quota_is_rounded_down(
    tmp_path: Path, cgroup: str, mounts: list[str], files: dict[str, str], quota: str
) -> None:
    root = kernel(tmp_path, PLAIN, cgroup, mounts, files)
    budget = thread_budget(root, range(4), {})
    expected = ThreadBudget(4, "4 physical cores")
    if quota:
        count = max(1, int(float(quota.split()[0])))
        expected = ThreadBudget(count, f"cgroup quota of {quota}")
    assert budget == expected


@pytest.mark.parametrize(
    ("cores", "affinity", "expected"),
    [
        (SMT, range(8), ThreadBudget(4, "4 physical cores")),
        (SMT, (0, 1), ThreadBudget(2, "affinity to 2 CPUs")),
        (SMT, (0, 4), ThreadBudget(1, "affinity to 2 CPUs on 1 core")),
        (SMT, (7,), ThreadBudget(1, "affinity to 1 CPU")),
        (SMT, range(4), ThreadBudget(4, "4 physical cores")),
        (PLAIN, range(3), ThreadBudget(3, "affinity to 3 CPUs")),
        ({}, range(2), ThreadBudget(2, "2 physical cores")),
        ({0: "0-1\n", 1: "0-1\n"}, (0, 1), ThreadBudget(1, "1 physical core")),
        ({0: "", 1: ""}, (0,), ThreadBudget(1, "1 physical core")),
    ],
)
@pytest.mark.parametrize("topology", ["core_cpus_list", "thread_siblings_list"])
def test_hardware_threads_of_one_core_count_once(
    tmp_path: Path,
    cores: dict[int, str],
    affinity: Collection[int],
    expected: ThreadBudget,
    topology: str,
) -> None:
    assert thread_budget(kernel(tmp_path, cores, topology=topology), affinity, {}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", ThreadBudget(1, "OMP_NUM_THREADS=1")),
        (" 2 , 1", ThreadBudget(2, "OMP_NUM_THREADS=2")),
        ("4", ThreadBudget(4, "4 physical cores")),
        ("9", ThreadBudget(4, "4 physical cores")),
        ("0", ThreadBudget(4, "4 physical cores")),
        ("-1", ThreadBudget(4, "4 physical cores")),
        ("many", ThreadBudget(4, "4 physical cores")),
        ("", ThreadBudget(4, "4 physical cores")),
    ],
)
def test_omp_num_threads_is_a_limit_if_it_is_a_number(
    tmp_path: Path, value: str, expected: ThreadBudget
) -> None:
    root = kernel(tmp_path, PLAIN)
    assert thread_budget(root, range(4), {"OMP_NUM_THREADS": value}) == expected


def test_a_core_has_the_numbers_of_those_of_its_cpus_that_may_be_used(tmp_path: Path) -> None:
    root = kernel(tmp_path, SMT)
    assert physical_cores(root, (1, 0, 4)) == (frozenset((0, 4)), frozenset((1,)))


def test_this_machine_has_a_budget_and_the_module_imports_no_framework() -> None:
    code = (
        "import sys; from resnext.machine.threads import thread_budget; budget = thread_budget();"
        "assert budget.count >= 1 and budget.reason;"
        "print({'torch', 'pydantic', 'psutil', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
