"""Logits of many images, stored on disk by chunk, so that an interrupted run resumes.

Chunks are written whole or not at all, under a lock: processes that share a folder share the work.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.errors import MissingRequirement
from resnext.images.preprocessing import PIXELS_VERSION, Preprocessing
from resnext.images.sources import ImageSource
from resnext.storage import locked, read_cached, write_cached

#: How a long step shows its progress; `resnext.progress.track` is one.
Track: TypeAlias = Callable[[Iterable[int], str], Iterable[int]]


def logits_key(facts: dict[str, Any], source: ImageSource, preprocessing: Preprocessing) -> str:
    """Name of the folder for the logits of ``source``: a digest of everything they depend on.

    Args:
        facts: the network, the software and the machine.
        source: the images.
        preprocessing: of the images.
    """
    facts = {
        **facts,
        "source": source.digest,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "pixels": PIXELS_VERSION,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def logits_by_chunk(
    folder: Path | None,
    images: int,
    step: int,
    classes: int,
    compute: Callable[[int, int], NDArray[np.float32]],
    track: Track,
    description: str,
) -> NDArray[np.float32]:
    """Logits of all images: each chunk is read from ``folder`` or computed now.

    Args:
        folder: where chunks are stored; None stores nothing.
        images: number of images.
        step: images per chunk.
        classes: logits per image.
        compute: the logits of the images from start to stop.
        track: shows progress.
        description: name of the step, passed to ``track``.

    Raises:
        MissingRequirement: ``folder`` cannot be written to.
    """
    parts = []
    for start in track(range(0, images, step), description):
        stop = min(start + step, images)
        if folder is None:
            parts.append(compute(start, stop))
            continue
        path = folder / f"{start:08d}-{stop:08d}.npy"
        # Locked for each chunk, so that two processes take turns and both see progress.
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            part = _read_chunk(path, (stop - start, classes))
            if part is None:
                part = compute(start, stop)
                _write_chunk(path, part)
        parts.append(part)
    return np.concatenate(parts)


def _read_chunk(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The chunk at ``path``; None if it is absent or damaged."""
    if (data := read_cached(path)) is None:
        return None
    try:
        part: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError:
        return None
    return part if part.shape == shape and part.dtype == np.float32 else None


def _write_chunk(path: Path, part: NDArray[np.float32]) -> None:
    stream = io.BytesIO()
    np.save(stream, part)
    with _disk_errors(path.parent):
        write_cached(path, stream.getvalue())


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise MissingRequirement(
            f"cannot keep logits in {folder}: {exc.strerror or exc}; free some room or choose"
            " another folder"
        ) from exc
