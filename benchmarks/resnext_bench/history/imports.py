"""Runs copied into the folder of a history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from resnext.errors import BadInput, MissingRequirement
from resnext.readers.files import MOST_JSON, read_file
from resnext.storage import write_whole
from resnext_bench.result import read_run


def import_runs(folder: Path | str, files: Sequence[Path | str]) -> list[Path]:
    """Copy stored runs into ``folder``, which is created; one that is there under any name is not.

    Args:
        folder: of a history.
        files: runs; none is copied unless all can be read.

    Returns:
        The new files, named by date and digest.

    Raises:
        BadInput: a file is no run, or its date is no part of a file's name.
        MissingRequirement: ``folder`` cannot be written.
    """
    copies: dict[Path, bytes] = {}
    for path in map(Path, files):
        day = read_run(path).created[:10]
        if not day.replace("-", "").isdecimal():
            raise BadInput(f"{path} is not a stored run: it was created {day!r}")
        data = read_file(path, MOST_JSON)
        name = f"{day}-{hashlib.sha256(data).hexdigest()[:12]}.json"
        copies[Path(folder) / name] = data
    new = {path: data for path, data in copies.items() if not _is_in(Path(folder), data)}
    for path, data in new.items():
        try:
            write_whole(path, data)
        except OSError as exc:
            raise MissingRequirement(
                f"cannot write {path}: {exc.strerror}", hint="choose another folder"
            ) from exc
    return list(new)


def _is_in(folder: Path, data: bytes) -> bool:
    """Whether a JSON file in ``folder``, or a folder inside it, has these bytes."""
    return any(
        path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
        for path in folder.rglob("*.json")
    )
