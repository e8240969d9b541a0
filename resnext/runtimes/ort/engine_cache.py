"""Folders in which ONNX Runtime's TensorRT providers keep engines and kernels. The providers load
whatever is there, so a file that changed, or that a killed process half wrote, is removed before.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from resnext.readers.files import file_sha256
from resnext.storage import read_cached, remove, write_cached

#: Digests of the other files by name.
_RECORD_NAME = "digests.json"
LOCK_NAME = ".lock"


def remove_unrecorded(folder: Path) -> None:
    """Remove what does not have the digest that `record` stored; the provider makes it again."""
    recorded = json.loads(read_cached(folder / _RECORD_NAME) or b"{}")
    for path in _files(folder):
        if not path.is_file() or recorded.get(path.name) != file_sha256(path):
            remove(path)


def record(folder: Path) -> None:
    """Store the digests of what a provider wrote. A cache that cannot be written is no error."""
    with suppress(OSError):
        digests = {path.name: file_sha256(path) for path in _files(folder) if path.is_file()}
        write_cached(folder / _RECORD_NAME, json.dumps(digests).encode())


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name not in (_RECORD_NAME, LOCK_NAME)]
