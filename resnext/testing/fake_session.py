"""A Session without a runtime: computes any function of its input, for tests and for timing the
harness.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.specs import BatchRange, TensorSpec
from resnext.runtimes.session import (
    Arrays,
    Bound,
    Boundary,
    Delivered,
    DeliveredLayer,
    LayerTime,
    Session,
)


class FakeSession(Session):
    """Applies ``function`` to its single input; without one, does nothing and returns zeros.

    Args:
        function: maps the input (N x ...) to the output (N x classes).
        in_shape: shape of the input after the batch.
        classes: width of the output.
        batch_ranges: as for any session.

    Attributes:
        boundary: timing boundary of its bound inputs.
        cuda_stream: CUDA stream of its bound inputs; a subclass may pretend to have one.
        layers: times of its layers; without any, it does not report them.
    """

    boundary: Boundary = "host"
    cuda_stream: int | None = None
    layers: tuple[LayerTime, ...] = ()

    def __init__(
        self,
        function: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        in_shape: tuple[int, ...] = (1,),
        classes: int = 2,
        batch_ranges: tuple[BatchRange, ...] = (),
    ) -> None:
        super().__init__("fake", batch_ranges)
        self.inputs = (TensorSpec(name="input", dtype="float32", shape=(None, *in_shape)),)
        self.outputs = (TensorSpec(name="logits", dtype="float32", shape=(None, classes)),)
        self.calls = 0
        self.closed = False
        self._function = function

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Apply the function."""
        self.check_inputs(inputs)
        return {"logits": self.apply(inputs["input"])}

    def apply(self, images: NDArray[Any]) -> NDArray[Any]:
        """The function's value, counted as a call."""
        self.calls += 1
        return self._function(images) if self._function else self.zeros(len(images))

    def _bind(self, inputs: Arrays) -> Bound:
        return FakeBound(self, inputs["input"].copy(), self.boundary, self.cuda_stream)

    def delivered(self) -> Delivered:
        """One layer, in float32."""
        return Delivered("cpu", (DeliveredLayer("function", "Conv", "float32", "cpu"),))

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object] = lambda: None
    ) -> tuple[LayerTime, ...]:
        """The planted `layers`, with a run of the function for each profiled one."""
        if not self.layers:
            return super().layer_times(inputs, runs)
        for _ in range(runs):
            before_each()
            self.run(inputs)
        return self.layers

    def zeros(self, rows: int) -> NDArray[Any]:
        """Zeros of the output's shape for ``rows`` images."""
        return np.zeros((rows, self.outputs[0].shape[1] or 1), np.float32)

    def close(self) -> None:
        """Record the call."""
        super().close()
        self.closed = True


class FakeBound(Bound):
    """A bound input of a `FakeSession`.

    Args:
        session: provides the function.
        images: the input; never modified.
        boundary: see `Bound`.
        cuda_stream: see `Bound`.
    """

    def __init__(
        self,
        session: FakeSession,
        images: NDArray[Any],
        boundary: Boundary,
        cuda_stream: int | None,
    ) -> None:
        super().__init__(session.backend, boundary, cuda_stream)
        self._session, self._images = session, images
        self._result = session.zeros(len(images))

    def _launch(self) -> None:
        self._result = self._session.apply(self._images)

    def _outputs(self) -> dict[str, NDArray[Any]]:
        return {"logits": self._result.copy()}

    def _drop(self) -> None:
        self._images = self._result = np.empty(0)
