"""Kernels that TensorRT-RTX compiled for this GPU, kept between processes so that the next one
starts faster.
"""

from __future__ import annotations

from pathlib import Path

from resnext.storage import write_whole

from .library import CompiledKernels


class KernelCache:
    """One file. A cache that cannot be read or written costs time, never an error: `notes` tells.

    Args:
        path: the file, or None for a library that compiles nothing when it runs.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: list[CompiledKernels] = []
        self._written: bytes | None = None
        self._found = self._rejected = False
        self._problem = ""

    def read(self) -> bytes | None:
        """What earlier processes, or this one, kept."""
        if self._path is None:
            return None
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._problem = str(exc.strerror)
            return None
        self._found = self._found or self._written is None
        return data

    def take(self, cache: CompiledKernels | None) -> None:
        """Remember the cache of a new context."""
        if cache is not None:
            self._kept.append(cache)
            self._rejected = self._rejected or cache.rejected

    def keep(self) -> None:
        """Write what the newest context has compiled, whole or not at all."""
        if self._path is None or not self._kept:
            return
        held = self._kept[-1].serialize()
        if held is None:
            self._problem = "the library gives nothing to keep"
            return
        data = bytes(held)
        if data == self._written:
            return
        try:
            write_whole(self._path, data)
            self._written = data
        except OSError as exc:
            self._problem = str(exc.strerror)

    def notes(self) -> dict[str, str]:
        """For `Delivered`: whether kernels were there already."""
        if self._path is None:
            return {}
        told = "reused" if self._found and not self._rejected else "compiled now"
        told += (
            ", since those kept do not fit this GPU, driver or version" if self._rejected else ""
        )
        return {"kernel cache": f"{told}, not kept: {self._problem}" if self._problem else told}

    def drop(self) -> None:
        """Let go of the library's objects."""
        self._kept = []
