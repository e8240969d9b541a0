"""Asks the CUDA driver, through libcuda, for this machine's GPUs. Never imports a framework, and
never crashes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

#: CUDA_ERROR_NO_DEVICE.
_NO_DEVICE = 100
_FUNCTIONS = (
    "cuInit",
    "cuDeviceGetCount",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
)
#: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """One device.

    Attributes:
        name: the driver's name, for example ``NVIDIA H200``.
        compute_capability: for example ``9.0``.
    """

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Driver:
    """The driver's answers.

    Attributes:
        problem: why no device can be used, or None if one can.
        devices: number of devices.
        cuda_version: newest CUDA version that the driver supports, for example ``13.0``, or None.
        gpus: the devices, in the driver's order.
    """

    problem: str | None
    devices: int = 0
    cuda_version: str | None = None
    gpus: tuple[Gpu, ...] = ()


def probe_driver(library: str = "libcuda.so.1") -> Driver:
    """Ask for the driver's version and devices."""
    try:
        cuda = ctypes.CDLL(library)
        _ = [getattr(cuda, name) for name in _FUNCTIONS]  # each look-up may fail
    except OSError:
        return Driver(f"the NVIDIA driver is not installed (no {library})")
    except AttributeError as exc:
        return Driver(f"{library} is not the NVIDIA driver's ({exc})")
    status = cuda.cuInit(0)
    if status == _NO_DEVICE:
        return Driver("the NVIDIA driver sees no device (is CUDA_VISIBLE_DEVICES empty?)")
    if status != 0:
        return Driver(f"the NVIDIA driver is installed but cuInit failed with CUDA error {status}")
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return Driver("the NVIDIA driver sees no device (is CUDA_VISIBLE_DEVICES empty?)")
    cuda.cuDriverGetVersion(ctypes.byref(version))
    gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    return Driver(None, count.value, f"{version.value // 1000}.{version.value % 1000 // 10}", gpus)


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, name, number = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        parts.append(str(number.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(parts))
