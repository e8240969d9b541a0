"""Cold caches: what a timed run would find there is pushed out before it starts."""

from __future__ import annotations

import functools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .clock import now_ns

#: What a run finds in the caches: what the one before it left, or nothing of its own.
Cache = Literal["hot", "cold"]

_ROOT = Path("/")
#: Largest buffer; some virtual machines report a cache of half a gigabyte.
_MOST_BYTES = 1 << 30
#: Assumed if the kernel does not say.
_LIKELY_BYTES = 64 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Flush(Protocol):
    """Pushes everything out of the caches.

    Attributes:
        took_ns: duration of a flush, nanoseconds.
    """

    took_ns: int

    def __call__(self) -> None:
        """Flush, and return when it is done."""

    def enqueue(self) -> None:
        """Flush in the order of the stream, if there is one."""


class CpuFlush:
    """Reads and writes a buffer of twice the last-level cache: a part of it on each processor that
    this process may use, for the caches that a processor has to itself.

    Args:
        size_bytes: of the buffer; None means as above, at most 1 GiB.
    """

    def __init__(self, size_bytes: int | None = None) -> None:
        size = min(2 * last_level_cache_bytes(), _MOST_BYTES) if size_bytes is None else size_bytes
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self._parts = list(
            zip(processors, np.array_split(_buffer(size), len(processors)), strict=True)
        )
        self._pool = ThreadPoolExecutor(len(processors), "flush")
        self()  # maps the pages
        before = now_ns()
        self()
        self.took_ns = now_ns() - before

    def __call__(self) -> None:
        """Touch every byte."""
        list(self._pool.map(_touch, *zip(*self._parts, strict=True)))

    enqueue = __call__


class StreamFlush:
    """Writes a buffer of twice the L2 cache on a CUDA stream.

    Args:
        cuda_stream: handle of the stream.
    """

    def __init__(self, cuda_stream: int) -> None:
        import torch

        self._stream: Any = torch.cuda.ExternalStream(cuda_stream)  # type: ignore[no-untyped-call]
        size = 2 * torch.cuda.get_device_properties(self._stream.device).L2_cache_size
        self._buffer = torch.empty(size, dtype=torch.uint8, device=self._stream.device)
        self._on_stream = functools.partial(torch.cuda.stream, self._stream)
        self()
        before = now_ns()
        self()
        self.took_ns = now_ns() - before

    def __call__(self) -> None:
        """Write, and wait for the stream."""
        self.enqueue()
        self._stream.synchronize()

    def enqueue(self) -> None:
        """Queue the writes."""
        with self._on_stream():
            self._buffer.zero_()


def flush_for(cuda_stream: int | None) -> Flush:
    """What empties the caches of a session with that stream, or of a session on the CPU."""
    return CpuFlush() if cuda_stream is None else StreamFlush(cuda_stream)


def last_level_cache_bytes(root: Path = _ROOT) -> int:
    """Size of the largest data cache that the kernel lists, or 64 MiB if it lists none.

    Args:
        root: of the kernel's files.
    """
    sizes = []
    for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*/size"):
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, ValueError):
            continue
        if match := re.fullmatch(r"(\d+)([KMG]?)\s*", text):
            sizes.append(int(match[1]) * _UNITS[match[2]])
    return max(sizes, default=_LIKELY_BYTES)


@functools.lru_cache(maxsize=1)
def _buffer(size_bytes: int) -> NDArray[np.uint64]:
    """One for the whole process."""
    return np.zeros(size_bytes // 8, np.uint64)


def _touch(processor: int, part: NDArray[np.uint64]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {processor})  # of this thread alone
    part += 1
