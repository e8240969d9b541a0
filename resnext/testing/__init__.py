"""For tests: a `FakeSession`, and a pytest plugin.

Names are imported on first use, because pytest imports this package at every start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["FakeBound", "FakeSession"]

if TYPE_CHECKING:
    from .fake_session import FakeBound as FakeBound
    from .fake_session import FakeSession as FakeSession


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".fake_session", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
