"""The front door: from a path, an artifact or weights to a session, on the natural runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.artifact.files import Artifact
from resnext.artifact.foreign import open_artifact
from resnext.artifact.trust import Trust
from resnext.readers.files import is_file, is_folder
from resnext.weights.spec import Weights, load_weights

from . import registry
from .registry import SessionOptions, natural_runtime

if TYPE_CHECKING:
    from .session import Session


def open_session(
    subject: Weights | Artifact | Path | str,
    runtime: str | None = None,
    *,
    options: SessionOptions | None = None,
    trust: Trust | None = None,
    **changes: Any,
) -> Session:
    """Open the network, or an artifact of it, on a runtime.

    Args:
        subject: weights, an artifact, or a path: an artifact's folder or file, or a checkpoint
            that says which network it is.
        runtime: a key of `RUNTIMES`; None for the one that is natural for ``subject``.
        options: device, threads, memory format, CUDA graphs, precision of a live network.
        trust: whose artifacts may be opened, if ``subject`` is a path; None means what the
            environment says.
        changes: fields of `SessionOptions`, for example ``device="cuda"``, over ``options``.

    Raises:
        UnknownName: no such runtime.
        UsageError: the runtime cannot run that subject, or not on the requested device.
        MissingRequirement: the machine lacks the device, or the environment the package.
        BadInput: the path is neither an artifact nor a checkpoint, or ``trust`` refuses it.
    """
    if isinstance(subject, str | Path):
        path = Path(subject)
        is_artifact = is_folder(path) or is_file(path.parent / "manifest.json")
        bare = path.suffix == ".onnx" and is_file(path)
        subject = (
            open_artifact(path, trust=trust) if is_artifact or bare else load_weights(str(subject))
        )
    if runtime is None:
        runtime = "torch" if isinstance(subject, Weights) else natural_runtime(subject)
    options = replace(options or SessionOptions(), **changes)
    return registry.open_session(subject, runtime, options=options)
