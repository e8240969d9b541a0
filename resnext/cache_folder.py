"""Where the toolkit keeps what it can make again: artifacts, engines, kernel times, compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$RESNEXT_CACHE_DIR``, or the platform's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("RESNEXT_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_path("resnext-toolkit")
