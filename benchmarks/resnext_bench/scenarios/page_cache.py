"""Pages of a file that the kernel keeps in memory: dropped, and counted."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from pathlib import Path

#: A file counts as dropped if at most this share of its pages is left.
_MOST_LEFT = 0.05


def drop_pages(paths: list[Path]) -> bool | None:
    """Ask the kernel to forget the pages of ``paths``, and say whether it did.

    Pages that a process has mapped stay, and so do those of a file system that lives in memory.

    Returns:
        None if the system does not tell.
    """
    left = []
    for path in paths:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            with suppress(OSError, AttributeError):
                os.fsync(handle)  # pages that are not written yet stay
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            left.append(_resident_share(handle))
        finally:
            os.close(handle)
    shares = [share for share in left if share is not None]
    return None if len(shares) < len(left) or not left else max(shares) <= _MOST_LEFT


def _resident_share(handle: int) -> float | None:
    """Share of a file's pages in memory; None if the system does not tell."""
    size = os.fstat(handle).st_size
    if not size:
        return 0.0
    pages = -(-size // mmap.PAGESIZE)
    present = (ctypes.c_ubyte * pages)()
    try:
        # Private and writable, because only then ctypes tells its address. Nothing is touched.
        mapped = mmap.mmap(handle, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError, AttributeError):
        return None
    with mapped:
        first = ctypes.c_char.from_buffer(mapped)
        try:
            failed = ctypes.CDLL(None, use_errno=True).mincore(
                ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), present
            )
        except (OSError, AttributeError):
            return None
        finally:
            del first
    return None if failed else sum(page & 1 for page in present) / pages
