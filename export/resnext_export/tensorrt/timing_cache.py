"""TensorRT's kernel timings, stored in a file between builds. TensorRT-RTX times no kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnext.errors import MissingRequirement
from resnext.storage import read_cached, write_cached, write_whole


class TimingCache:
    """A file that a build reads, extends and replaces atomically.

    Args:
        path: the file; it need not exist yet.
        shared: it is the user's, in the library's own format, for other tools as well; if not, it
            is a file of the cache, behind a digest.

    Attributes:
        path: the file.
        rejected: True if the library rejected the file (another GPU, driver or version).
    """

    def __init__(self, path: Path, *, shared: bool) -> None:
        self.path = path
        self.rejected = False
        self._shared = shared

    def attach(self, trt: Any, config: Any) -> None:  # noqa: ARG002  # like the builder's other steps
        """Pass the stored timings to the builder, or an empty cache if they do not fit."""
        if self._shared:
            stored = self.path.read_bytes() if self.path.is_file() else b""
        else:
            stored = read_cached(self.path) or b""
        timings = config.create_timing_cache(stored)  # None if the bytes are not a timing cache
        if timings is None or not config.set_timing_cache(timings, False):
            self.rejected = bool(stored)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def write(self, config: Any) -> None:
        """Write the builder's timings.

        Raises:
            MissingRequirement: the file cannot be written.
        """
        try:
            write = write_whole if self._shared else write_cached
            write(self.path, bytes(config.get_timing_cache().serialize()))
        except OSError as exc:
            raise MissingRequirement(
                f"cannot write the timing cache {self.path}: {exc.strerror or exc}"
            ) from exc
