"""Where the toolkit keeps what it can make again: artifacts, engines, compiled kernels, reference
logits.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$RESNEXT_CACHE_DIR``, or the platform's cache folder."""
    if chosen := os.environ.get("RESNEXT_CACHE_DIR"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("resnext-toolkit")
