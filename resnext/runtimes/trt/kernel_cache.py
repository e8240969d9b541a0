"""A file with the kernels that TensorRT-RTX compiled for this GPU, so that the next process starts
faster.
"""

from __future__ import annotations

from pathlib import Path

from resnext.storage import read_cached, write_cached

from .library import CompiledKernels


class KernelCache:
    """One file. A cache that cannot be read or written costs time and is no error; see `notes`.

    Args:
        path: the file, or None for a library that compiles nothing at run time.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._caches: list[CompiledKernels] = []
        self._written: bytes | None = None
        self._reused = self._rejected = False
        self._problem = ""

    def read(self) -> bytes | None:
        """The kernels that earlier processes, or this one, stored."""
        if self._path is None:
            return None
        if (data := read_cached(self._path)) is None:
            return None
        self._reused = self._reused or self._written is None
        return data

    def add(self, cache: CompiledKernels | None) -> None:
        """Add the cache of a new context."""
        if cache is not None:
            self._caches.append(cache)
            self._rejected = self._rejected or cache.rejected

    def write(self) -> None:
        """Write the kernels of the newest context atomically."""
        if self._path is None or not self._caches:
            return
        serialized = self._caches[-1].serialize()
        if serialized is None:
            self._problem = "the library gives nothing to keep"
            return
        data = bytes(serialized)
        if data == self._written:
            return
        try:
            write_cached(self._path, data)
            self._written = data
        except OSError as exc:
            self._problem = str(exc.strerror)

    def notes(self) -> dict[str, str]:
        """For `Delivered`: whether cached kernels were used."""
        if self._path is None:
            return {}
        note = "reused" if self._reused and not self._rejected else "compiled now"
        if self._rejected:
            note += ", since those kept do not fit this GPU, driver or version"
        return {"kernel cache": f"{note}, not kept: {self._problem}" if self._problem else note}

    def drop(self) -> None:
        """Release the library's objects."""
        self._caches = []
