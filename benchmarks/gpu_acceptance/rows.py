"""Rows of the acceptance in a file, whole after each line, and what else is written whole."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
#: Exit code of a step whose process can no longer use the device.
DEVICE_LOST = 75


def code_digest() -> str:
    """Of every Python file of the toolkit and of these scripts."""
    digest = hashlib.sha256()
    for folder in ("resnext", "export", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read_rows(path: Path) -> list[Row]:
    """Rows of a file; a last line that a kill cut short is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def under_way_path(cache: Path, step: str) -> Path:
    """File with the cells that a step is at."""
    return cache / f"under-way-{step}.json"


def under_way(cache: Path, step: str) -> list[str]:
    """The cells that a step was at when it ended; none if it ended in order."""
    try:
        cells = json.loads(under_way_path(cache, step).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(cell) for cell in cells]


def append_row(path: Path, row: Row) -> None:
    """One line, in one write; behind a line that a kill cut short, on a line of its own."""
    start = "" if latest_line_is_whole(path) else "\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, f"{start}{json.dumps(row, default=str)}\n".encode())
    finally:
        os.close(handle)


def latest_line_is_whole(path: Path) -> bool:
    """Whether the file ends with a line's end, is empty, or is not there."""
    try:
        return path.read_bytes()[-1:] in (b"", b"\n")
    except OSError:
        return True


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def first_line(exc: BaseException) -> str:
    """Type and first line of an error."""
    line = next((line.strip() for line in str(exc).splitlines() if line.strip()), "no message")
    # What fails in a capture is hidden behind what ending the capture then raises.
    behind = "" if exc.__context__ is None else f" (while handling {first_line(exc.__context__)})"
    return f"{type(exc).__name__}: {line[:300]}{behind}"
