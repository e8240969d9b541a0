"""TensorRT's kernel times, kept in a file between builds. TensorRT-RTX times nothing and has no use
for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnext.errors import MissingRequirement
from resnext.storage import write_whole


class TimingCache:
    """One file. A build reads it, adds what it timed, and writes it back whole.

    Attributes:
        path: the file; it need not be there yet.
        rejected: True where the library would not take what the file holds (another GPU, driver or
            version).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = False

    def attach(self, trt: Any, config: Any) -> None:  # noqa: ARG002  # as the builder's other steps
        """Hand the kept times to the builder's ``config``, or empty ones where there are none that
        fit.
        """
        kept = self.path.read_bytes() if self.path.is_file() else b""
        times = config.create_timing_cache(kept)  # None where the bytes are no such cache
        if times is None or not config.set_timing_cache(times, False):
            self.rejected = bool(kept)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def keep(self, config: Any) -> None:
        """Write what the builder knows now.

        Raises:
            MissingRequirement: the file cannot be written.
        """
        try:
            write_whole(self.path, bytes(config.get_timing_cache().serialize()))
        except OSError as exc:
            raise MissingRequirement(
                f"cannot write the timing cache {self.path}: {exc.strerror or exc}"
            ) from exc
