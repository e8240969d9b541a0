"""ResNeXt from configuration to session: the contracts that every stage shares.

Names are imported on first use, so that ``import resnext`` (and a command's ``--help``) loads no framework.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

#: ONNX Runtime's wheels report to their maker as soon as they are imported, from 1.31 on Linux too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "Artifact": "artifact",
    "Manifest": "manifest",
    "Parity": "parity",
    "Preprocessing": "preprocess",
    "ResNeXt": "model",
    "ResNeXtConfig": "config",
    "ResnextError": "errors",
    "Session": "session",
    "VARIANTS": "config",
    "Weights": "weights",
    "compare": "parity",
    "load_model": "weights",
    "load_weights": "weights",
    "open_session": "backends",
}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from .artifact import Artifact as Artifact
    from .backends import open_session as open_session
    from .config import VARIANTS as VARIANTS
    from .config import ResNeXtConfig as ResNeXtConfig
    from .errors import ResnextError as ResnextError
    from .manifest import Manifest as Manifest
    from .model import ResNeXt as ResNeXt
    from .parity import Parity as Parity
    from .parity import compare as compare
    from .preprocess import Preprocessing as Preprocessing
    from .session import Session as Session
    from .weights import Weights as Weights
    from .weights import load_model as load_model
    from .weights import load_weights as load_weights


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
