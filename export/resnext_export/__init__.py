"""Export a ResNeXt: weights to a proven artifact. Command: ``resnext-export``.

Names are imported on first use, so that ``import resnext_export`` loads no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ExportRequest": "request",
    "FORMATS": "registry",
    "export": "pipeline",
}

__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from .pipeline import export as export
    from .registry import FORMATS as FORMATS
    from .request import ExportRequest as ExportRequest


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
