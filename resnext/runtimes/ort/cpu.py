"""ONNX Runtime's CPU provider: host buffers, and runs that have finished when they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.graph import onnx_graph
from resnext.artifact.specs import TensorSpec
from resnext.runtimes.session import Arrays, Bound, Delivered, LayerTime

from .profile import (
    layer_times,
    layers_from_profile,
    modules_by_output,
    profiled_run,
    profiled_runs,
)
from .provider import Provider, load, session_options


class CpuProvider(Provider):
    """The CPU provider."""

    name = "CPUExecutionProvider"
    device = "cpu"

    def open(self) -> Any:
        """One session for all runs."""
        return self._load(session_options(self.options))

    def bind(self, native: Any, inputs: Arrays, outputs: tuple[TensorSpec, ...]) -> HostBound:
        """Host buffers."""
        bound = HostBound(self.backend, native, inputs, [spec.name for spec in outputs])
        bound.enqueue()
        return bound

    def delivered(self, inputs: tuple[TensorSpec, ...]) -> Delivered:
        """All nodes, from a profiled run of the same graph."""
        session, events = profiled_run(
            session_options(self.options), self._load, inputs, batch=1, backend=self.backend
        )
        modules = modules_by_output(onnx_graph(self.artifact))
        notes = {
            "providers": ", ".join(session.get_providers()),
            "threads": str(self.options.thread_count),
        }
        return Delivered(self.device, layers_from_profile(events, modules), notes)

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object]
    ) -> tuple[LayerTime, ...]:
        """From profiled runs of the same graph."""

        def turns() -> Iterator[Arrays]:
            yield inputs
            for _ in range(runs):
                before_each()
                yield inputs

        _, events = profiled_runs(
            session_options(self.options), self._load, turns(), backend=self.backend
        )
        return layer_times(events, runs + 1, modules_by_output(onnx_graph(self.artifact)))

    def _load(self, native: Any) -> Any:
        return load(self.artifact, native, self.name, backend=self.backend)


class HostBound(Bound):
    """Inputs on the host.

    Args:
        backend: name of the session's runtime.
        native: an ``onnxruntime.InferenceSession``.
        inputs: host arrays, which are copied.
        names: names of the outputs.
    """

    def __init__(self, backend: str, native: Any, inputs: Arrays, names: list[str]) -> None:
        super().__init__(backend)
        self._native, self._names = native, names
        self._inputs = {name: np.array(array, order="C") for name, array in inputs.items()}
        self._results: list[NDArray[Any]] = []

    def _launch(self) -> None:
        self._results = self._native.run(self._names, self._inputs)

    def _outputs(self) -> dict[str, NDArray[Any]]:
        return {name: array.copy() for name, array in zip(self._names, self._results, strict=True)}

    def _drop(self) -> None:
        self._native, self._inputs, self._results = None, {}, []
