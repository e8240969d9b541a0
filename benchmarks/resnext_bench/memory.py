"""Peak memory that opening, binding and first running a session added.

On a CPU: the kernel's high-water mark of this process (Linux), reset before, over what was resident before. On CUDA:
the growth of the device's used memory, since runtimes keep what they once took.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass
class Peak:
    """Filled when the block ends: bytes added on host and device, None where the system does not tell."""

    host_bytes: int | None = None
    device_bytes: int | None = None


@contextmanager
def peak_memory(*, cuda: bool = False) -> Iterator[Peak]:
    """Measure what the block adds."""
    gc.collect()
    _trim()
    peak = Peak()
    device_before = _device_used() if cuda else None
    before = _resident("VmRSS") if _reset_high_water() else None
    yield peak
    if before is not None:
        after = _resident("VmHWM")
        peak.host_bytes = None if after is None else max(0, after - before)
    if device_before is not None:
        after = _device_used()
        grown = None if after is None else after - device_before
        peak.device_bytes = grown if grown is not None and grown >= 0 else None  # others gave memory back meanwhile


def _trim() -> None:
    """Give freed memory back to the system, or the next cell would reuse it unseen."""
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


def _resident(key: str) -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def _device_used() -> int | None:
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return int(total - free)
