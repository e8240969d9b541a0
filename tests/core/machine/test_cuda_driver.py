"""What the NVIDIA driver is asked for, held against a libcuda.so that a C compiler makes here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resnext.machine.cuda_driver import Driver, Gpu, probe_driver

#: Two devices. Argument types are the driver's own (cuda.h): a device is an int, attributes are
#: numbers of an enum.
SOURCE = r"""
#include <string.h>
#ifndef INIT
#define INIT 0
#endif
#ifndef COUNT
#define COUNT 2
#endif
static int ready = 0;
int cuInit(unsigned int flags) { ready = flags == 0 && INIT == 0; return INIT; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return ready ? 0 : 3; }
int cuDeviceGet(int *device, int ordinal) {
  *device = 40 + ordinal;
  return ordinal < COUNT ? 0 : 101;
}
int cuDeviceGetName(char *name, int len, int device) {
    strncpy(name, device == 40 ? "NVIDIA H200" : "NVIDIA GeForce RTX 4090", len);
    return 0;
}
#ifndef WITHOUT_ATTRIBUTES
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute == 75) *value = device == 40 ? 9 : 8;
    else if (attribute == 76) *value = device == 40 ? 0 : 9;
    else return 1;
    return 0;
}
#endif
"""

Compile = Callable[..., str]


@pytest.fixture
def driver(tmp_path: Path) -> Compile:
    """Compiles a stand-in for libcuda.so.1, with these definitions; returns its path."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")

    def build(**definitions: int) -> str:
        library = tmp_path / f"libcuda-{len(list(tmp_path.iterdir()))}.so.1"
        source = tmp_path / "cuda.c"
        source.write_text(SOURCE)
        flags = [f"-D{name}={value}" for name, value in definitions.items()]
        subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", library, source], check=True)
        return str(library)

    return build


def test_names_and_compute_capabilities_are_read_in_the_drivers_order(driver: Compile) -> None:
    gpus = (Gpu("NVIDIA H200", "9.0"), Gpu("NVIDIA GeForce RTX 4090", "8.9"))
    assert probe_driver(driver()) == Driver(None, 2, "13.2", gpus)


@pytest.mark.parametrize(
    ("definitions", "problem"),
    [
        ({"INIT": 100}, "sees no device"),
        ({"INIT": 999}, "cuInit failed with CUDA error 999"),
        ({"COUNT": 0}, "sees no device"),
        ({"WITHOUT_ATTRIBUTES": 1}, "is not the NVIDIA driver's"),
    ],
)
def test_a_driver_without_a_usable_device_is_a_problem(
    driver: Compile, definitions: dict[str, int], problem: str
) -> None:
    found = probe_driver(driver(**definitions))
    assert problem in (found.problem or "")
    assert (found.devices, found.gpus, found.cuda_version) == (0, (), None)


def test_one_device_is_one(driver: Compile) -> None:
    assert probe_driver(driver(COUNT=1)).gpus == (Gpu("NVIDIA H200", "9.0"),)
