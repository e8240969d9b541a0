"""TensorRT's kernel timings, stored in a file between builds. TensorRT-RTX times no kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnext.errors import MissingRequirement
from resnext.storage import write_whole


class TimingCache:
    """A file that a build reads, extends and replaces atomically.

    Attributes:
        path: the file; it need not exist yet.
        rejected: True if the library rejected the file (another GPU, driver or version).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = False

    def attach(self, trt: Any, config: Any) -> None:  # noqa: ARG002  # like the builder's other steps
        """Pass the stored timings to the builder, or an empty cache if they do not fit."""
        stored = self.path.read_bytes() if self.path.is_file() else b""
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
            write_whole(self.path, bytes(config.get_timing_cache().serialize()))
        except OSError as exc:
            raise MissingRequirement(
                f"cannot write the timing cache {self.path}: {exc.strerror or exc}"
            ) from exc
