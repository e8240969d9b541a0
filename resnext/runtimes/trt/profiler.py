"""TensorRT's profiler: the time of each layer of an engine.

Never run on a GPU yet; tested with a fake library.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from resnext.artifact.records import EngineLayer
from resnext.errors import SessionFailed
from resnext.runtimes.delivered import delivered_from_engine
from resnext.runtimes.session import DeliveredLayer, LayerTime

#: Names of the layers of one run with their milliseconds, in the order of execution.
Reports = list[tuple[str, float]]


def attach(trt: Any, context: Any, reports: Reports) -> None:
    """Add a report for each layer of every launch of ``context`` to ``reports``.

    A launch then waits for its layers, which is the library's default with a profiler; a captured
    graph reports none.

    Args:
        trt: the library's module.
        context: an execution context; keeps the profiler.
        reports: list to add to.
    """

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the library is only known when it is loaded
        """Adds what the library reports."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reports.append((layer_name, float(ms)))

    context.profiler = Profiler()


def layer_times(
    runs: Sequence[Reports], layers: Sequence[EngineLayer], device: str
) -> tuple[LayerTime, ...]:
    """The layers with the median of their times.

    Args:
        runs: the reports of each run.
        layers: of the engine, from its inspector.
        device: device of the engine.

    Raises:
        SessionFailed: the runs are not equal, or nothing was reported.
    """
    names = [name for name, _ in runs[0]]
    if not names or any([name for name, _ in run] != names for run in runs):
        raise SessionFailed("TensorRT's profiler reports other layers in one run than in the next")
    delivered = {layer.name: layer for layer in delivered_from_engine(tuple(layers), device).layers}
    tactics = {layer.name: layer.tactic for layer in layers}
    return tuple(
        LayerTime(
            delivered.get(name) or DeliveredLayer(name, "unknown", "unknown", device),
            statistics.median(run[index][1] for run in runs) * 1e6,
            tactics.get(name, ""),
        )
        for index, name in enumerate(names)
    )
