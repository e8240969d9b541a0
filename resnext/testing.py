"""A Session without a runtime: computes any function of its input, for tests and for timing the
harness itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.specs import TensorSpec
from resnext.runtimes.session import Arrays, Delivered, DeliveredLayer, Session


class FakeSession(Session):
    """Applies ``function`` to the one input; with none, does nothing at all and returns zeros.

    Args:
        function: maps the input (N x ...) to the output (N x classes).
        in_shape: shape of the input after the batch.
        classes: width of the output.
    """

    backend = "fake"

    def __init__(
        self,
        function: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        in_shape: tuple[int, ...] = (1,),
        classes: int = 2,
    ) -> None:
        self.inputs = (TensorSpec(name="input", dtype="float32", shape=(None, *in_shape)),)
        self.outputs = (TensorSpec(name="logits", dtype="float32", shape=(None, classes)),)
        self.calls = 0
        self.closed = False
        self._function = function
        self._bound: NDArray[Any] = np.zeros((1, *in_shape), np.float32)
        self._result: NDArray[Any] = self._zeros(1)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Apply the function."""
        self.check_inputs(inputs)
        self.calls += 1
        images = inputs["input"]
        return {"logits": self._function(images) if self._function else self._zeros(len(images))}

    def bind(self, inputs: Arrays) -> None:
        """Check and keep the input."""
        self.check_inputs(inputs)
        self._bound = inputs["input"].copy()
        self._result = self._zeros(len(self._bound))

    def enqueue(self) -> None:
        """Apply the function to the bound input."""
        self.calls += 1
        if self._function:
            self._result = self._function(self._bound)

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def fetch(self) -> dict[str, NDArray[Any]]:
        """The last result."""
        return {"logits": self._result.copy()}

    def delivered(self) -> Delivered:
        """One layer, in float32."""
        return Delivered("cpu", (DeliveredLayer("function", "Conv", "float32", "cpu"),))

    def _zeros(self, rows: int) -> NDArray[Any]:
        return np.zeros((rows, self.outputs[0].shape[1] or 1), np.float32)

    def close(self) -> None:
        """Remember that it was called."""
        self.closed = True
