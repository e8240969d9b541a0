"""Measure runtimes and artifacts: sessions to measurements to a report. Command: ``resnext-bench``.

Names are imported on first use, so that ``import resnext_bench`` loads no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ColdStart": "scenarios.cold_start",
    "Comparison": "comparison.result",
    "History": "history.result",
    "Load": "scenarios.load",
    "LoadGen": "scenarios.loadgen",
    "Run": "result",
    "Soak": "scenarios.soak",
    "Tuned": "tune.result",
    "benchmark": "api",
    "compare_runs": "comparison.runs",
    "read_history": "history.read",
    "read_run": "result",
    "read_tuned": "tune.result",
    "tune_artifact": "tune.api",
}

__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from .api import benchmark as benchmark
    from .comparison.result import Comparison as Comparison
    from .comparison.runs import compare_runs as compare_runs
    from .history.read import read_history as read_history
    from .history.result import History as History
    from .result import Run as Run
    from .result import read_run as read_run
    from .scenarios.cold_start import ColdStart as ColdStart
    from .scenarios.load import Load as Load
    from .scenarios.loadgen import LoadGen as LoadGen
    from .scenarios.soak import Soak as Soak
    from .tune.api import tune_artifact as tune_artifact
    from .tune.result import Tuned as Tuned
    from .tune.result import read_tuned as read_tuned


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
