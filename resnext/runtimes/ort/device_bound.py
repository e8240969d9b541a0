"""Inputs and outputs on a CUDA device, for the CUDA and TensorRT providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.specs import TensorSpec
from resnext.runtimes.session import Arrays, Bound, Boundary

#: Runs before the first timed one; a provider that captures a CUDA graph does it in one of them.
_WARM_RUNS = 3


def torch_stream() -> Any:
    """A stream on which the harness can record events; None if PyTorch has no CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped


class DeviceBound(Bound):
    """Inputs and outputs on the device, after the first runs.

    Args:
        backend: name of the session's runtime.
        native: an ``onnxruntime.InferenceSession``; if it captures a graph, nothing else may use
            it.
        inputs: host arrays, which are copied to the device.
        outputs: specs of the network's outputs.
        boundary: what a time around `enqueue` includes.
        stream: PyTorch's stream that the provider uses; None if the provider has its own.
        checked: checks the outputs before a caller sees them.
    """

    def __init__(
        self,
        backend: str,
        native: Any,
        inputs: Arrays,
        outputs: tuple[TensorSpec, ...],
        *,
        boundary: Boundary,
        stream: Any,
        checked: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    ) -> None:
        super().__init__(backend, boundary, None if stream is None else int(stream.cuda_stream))
        self._native, self._stream, self._checked = native, stream, checked
        self._asynchronous = ort.RunOptions()
        # Without this, ONNX Runtime waits for the device inside run, and a launch would look like a
        # finished run.
        self._asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._binding: Any = native.io_binding()
        self._inputs: list[Any] = []
        self._results: dict[str, Any] = {}
        batch = next(iter(inputs.values())).shape[0]
        for name, array in inputs.items():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
            self._binding.bind_ortvalue_input(name, value)
            self._inputs.append(value)  # must live as long as the binding
        for spec in outputs:
            shape = [batch if size is None else size for size in spec.shape]
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                shape, np.dtype(spec.dtype), "cuda", 0
            )
            self._binding.bind_ortvalue_output(spec.name, value)
            self._results[spec.name] = value
        for _ in range(_WARM_RUNS):
            self._launch()
        self._wait()

    def _launch(self) -> None:
        self._native.run_with_iobinding(self._binding, self._asynchronous)

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
        else:
            self._binding.synchronize_outputs()

    def _outputs(self) -> dict[str, NDArray[Any]]:
        self._wait()
        return self._checked({name: value.numpy() for name, value in self._results.items()})

    def _drop(self) -> None:
        self._binding = self._native = None
        self._inputs, self._results = [], {}
