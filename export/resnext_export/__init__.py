"""Export a ResNeXt: weights to a proven artifact. Command: ``resnext-export``.

Names are imported on first use, so that ``import resnext_export`` loads no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Bisection": "bisect.record",
    "ExportRequest": "request",
    "FORMATS": "registry",
    "Stored": "store",
    "build_or_reuse": "store",
    "export": "pipeline",
    "export_command": "command",
    "left_by_fp8": "foresight",
    "read_bisection": "bisect.record",
    "recorded_widths": "command",
    "refused_by_half": "foresight",
    "stored_manifests": "store",
}

__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from .bisect.record import Bisection as Bisection
    from .bisect.record import read_bisection as read_bisection
    from .command import export_command as export_command
    from .command import recorded_widths as recorded_widths
    from .foresight import left_by_fp8 as left_by_fp8
    from .foresight import refused_by_half as refused_by_half
    from .pipeline import export as export
    from .registry import FORMATS as FORMATS
    from .request import ExportRequest as ExportRequest
    from .store import Stored as Stored
    from .store import build_or_reuse as build_or_reuse
    from .store import stored_manifests as stored_manifests


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
