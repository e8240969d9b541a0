"""Peak memory added by opening, binding and first running a session.

On a CPU: the kernel's high-water mark of this process (Linux), reset first, minus the memory that
was resident then. On CUDA: the growth of the device's used memory, since runtimes keep what they
allocate; or the peak of PyTorch's own tensors, if that is higher: it frees some of them before the
end.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STATUS = Path("/proc/self/status")
_ROLLUP = Path("/proc/self/smaps_rollup")


@dataclass
class Peak:
    """Bytes added on host and device, filled when the block ends; None if the system does not
    report them.
    """

    host_bytes: int | None = None
    device_bytes: int | None = None


@contextmanager
def peak_memory(*, cuda: bool = False) -> Iterator[Peak]:
    """Measure the memory that the block adds."""
    release_free()
    peak = Peak()
    device = _Device.ready() if cuda else None
    before = _resident("VmRSS") if _reset_high_water() else None
    yield peak
    if before is not None:
        after = _resident("VmHWM")
        peak.host_bytes = None if after is None else max(0, after - before)
    if device is not None:
        peak.device_bytes = device.added()


def release_free() -> None:
    """Return freed memory to the system; what is allocated next would otherwise reuse it unseen."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _reset_high_water() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_bytes() -> int | None:
    """Resident memory of this process, exact where the kernel sums it over all mappings; None if
    the system does not tell.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in _ROLLUP.read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError):
        return _resident("VmRSS")
    return None


def peak_resident_bytes() -> int | None:
    """Peak resident memory of this process since it was started; None if the system does not
    tell.
    """
    with suppress(OSError):
        return _resident("VmHWM")
    return None


def device_used_bytes() -> int | None:
    """Memory in use on the CUDA device, by every process; None if there is none."""
    import torch

    return _used() if torch.cuda.is_available() else None


def _resident(key: str) -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


@dataclass(frozen=True)
class _Device:
    """Memory in use on the CUDA device before: in total, and by PyTorch's tensors."""

    used: int
    allocated: int

    @classmethod
    def ready(cls) -> _Device | None:
        """The device with nothing cached; None if there is none.

        PyTorch empties its cache when it captures a CUDA graph: blocks that earlier cases left
        there would be charged to the case that happens to capture.
        """
        import torch

        if not torch.cuda.is_available():
            return None
        _load_kernels()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return cls(_used(), torch.cuda.memory_allocated())

    def added(self) -> int | None:
        """Bytes allocated since; None if more were freed, by this or any other process."""
        import torch

        grown, own = _used() - self.used, torch.cuda.max_memory_allocated() - self.allocated
        grown = max(grown, own) if own > 0 else grown
        return grown if grown >= 0 else None


def _used() -> int:
    import torch

    free, total = torch.cuda.mem_get_info()
    return int(total - free)


@cache
def _load_kernels() -> None:
    """Run a convolution and a product, once: libraries and kernels load at first use and stay for
    all cases.
    """
    import torch

    image = torch.ones(1, 8, 8, 8, device="cuda")
    with torch.no_grad():
        torch.nn.functional.conv2d(image, torch.ones(8, 8, 3, 3, device="cuda"))
        torch.mm(image.view(8, 64), image.view(64, 8))
    torch.cuda.synchronize()
