"""ResNeXt from configuration to session; the foundation of the exporter and the benchmark.

Public names are imported on first use, so that ``import resnext`` (and ``--help``) loads no
framework.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

#: ONNX Runtime's wheels report to their maker as soon as they are imported, from 1.31 on Linux too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "Artifact": "artifact.files",
    "Integrity": "verify.batches.laws",
    "Manifest": "artifact.manifest",
    "Parity": "verify.parity",
    "Preprocessing": "images.preprocessing",
    "ResNeXt": "network.model",
    "ResNeXtConfig": "network.config",
    "ResnextError": "errors",
    "Session": "runtimes.session",
    "Trust": "artifact.trust",
    "VARIANTS": "network.config",
    "Verdict": "verify.verdict",
    "Weights": "weights.spec",
    "batch_integrity": "verify.batches.integrity",
    "check": "verify.check",
    "compare": "verify.parity",
    "load_model": "weights.spec",
    "load_weights": "weights.spec",
    "judge": "verify.verdict",
    "open_session": "runtimes.front",
    "verify_artifact": "verify.verdict",
}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact as Artifact
    from resnext.artifact.manifest import Manifest as Manifest
    from resnext.artifact.trust import Trust as Trust
    from resnext.images.preprocessing import Preprocessing as Preprocessing
    from resnext.network.config import VARIANTS as VARIANTS
    from resnext.network.config import ResNeXtConfig as ResNeXtConfig
    from resnext.network.model import ResNeXt as ResNeXt
    from resnext.runtimes.front import open_session as open_session
    from resnext.runtimes.session import Session as Session
    from resnext.verify.batches.integrity import batch_integrity as batch_integrity
    from resnext.verify.batches.laws import Integrity as Integrity
    from resnext.verify.check import check as check
    from resnext.verify.parity import Parity as Parity
    from resnext.verify.parity import compare as compare
    from resnext.verify.verdict import Verdict as Verdict
    from resnext.verify.verdict import judge as judge
    from resnext.verify.verdict import verify_artifact as verify_artifact
    from resnext.weights.spec import Weights as Weights
    from resnext.weights.spec import load_model as load_model
    from resnext.weights.spec import load_weights as load_weights

    from .errors import ResnextError as ResnextError


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
