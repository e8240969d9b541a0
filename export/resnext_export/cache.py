"""Build an artifact once, reuse it ever after: the one function through which benchmarks reach exporting."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact import Artifact, read_artifact
from resnext.config import Precision
from resnext.errors import BadArtifact, MissingRequirement
from resnext.manifest import FORMAT_VERSION, BatchRange

if TYPE_CHECKING:
    from resnext.weights import Weights


@dataclass(frozen=True)
class Built:
    """An artifact from the cache.

    Attributes:
        artifact: the artifact.
        reused: True where it was already there.
    """

    artifact: Artifact
    reused: bool


def cache_folder() -> Path:
    """Where artifacts are kept: ``$RESNEXT_CACHE_DIR``, or the platform's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("RESNEXT_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_path("resnext-toolkit")


def build_or_reuse(weights: Weights, folder: Path | None = None, precision: Precision = "fp32") -> Built:
    """The checked ONNX artifact of ``weights``, exported now if no earlier run left it.

    Safe for several processes: the first builds, the others wait and reuse. A damaged entry is built again.

    Raises:
        MissingRequirement: the cache folder cannot be written to.
        GateFailed: the export does not agree with PyTorch.
    """
    from filelock import FileLock

    from .onnx_artifact import export_onnx

    folder = folder or cache_folder()
    entry = folder / "onnx" / _key(weights, precision)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(entry.with_suffix(".lock"))
        lock.acquire()
    except OSError as exc:
        raise MissingRequirement(
            f"cannot use the cache folder {folder}: {exc.strerror or exc}; set RESNEXT_CACHE_DIR to one that can be"
        ) from exc
    try:
        try:
            artifact = read_artifact(entry)
            if artifact.manifest.check is not None and artifact.manifest.weights.sha256 == weights.sha256:
                return Built(artifact, reused=True)
        except BadArtifact:
            shutil.rmtree(entry, ignore_errors=True)  # absent, or damaged since; the cache owns its entries
        return Built(export_onnx(weights, entry, precision=precision, force=entry.exists()), reused=False)
    finally:
        lock.release()


def _key(weights: Weights, precision: Precision = "fp32") -> str:
    """A name that changes with everything that changes the bytes, versions of the exporting libraries included."""
    from .onnx_artifact import library_versions
    from .onnx_from_torch import OPSET

    batch = BatchRange(min=1, opt=8, max=None)
    facts = {
        "format": FORMAT_VERSION,
        "precision": precision,
        "config": asdict(weights.config), "weights": weights.sha256, "batch": str(batch),
        "preprocessing": weights.preprocessing.model_dump(mode="json"), "classes": weights.class_names,
        "opset": OPSET, "versions": library_versions(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
