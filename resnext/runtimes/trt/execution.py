"""One batch size of an engine: execution context, device buffers and CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from resnext.errors import SessionFailed
from resnext.runtimes.buffers import DeviceMemory, Replay
from resnext.runtimes.session import Arrays, Bound, Boundary
from resnext.runtimes.tensor_session import Translated

from .library import Library
from .log import Log, captured


@dataclass
class Execution:
    """A context with its profile and shapes set, and the only buffers for its batch size.

    `TrtSession.run` and all `TrtBound` of the batch size share them.

    Attributes:
        library: the library.
        trt: its module.
        memory: stream and graphs.
        context: the library's execution context.
        buffers: inputs and outputs on the device, by name.
        scratch: device memory for the context, if the library does not allocate it.
        replay: launches the captured graph; None if there is no graph.
        why_plain: why there is no graph.
        tried: whether a capture was tried.
        loaded: the bound inputs that are in the input buffers, by identity; None for other inputs.
    """

    library: Library
    trt: Any
    memory: DeviceMemory
    context: Any
    buffers: dict[str, torch.Tensor]
    scratch: torch.Tensor | None = None
    replay: Replay | None = None
    why_plain: str = "not requested"
    tried: bool = False
    loaded: Arrays | None = None

    def load(self, inputs: Arrays) -> None:
        """Queue copies of ``inputs`` to the device."""
        self.loaded = None  # so that a failed copy leaves no valid input
        for name, array in inputs.items():
            self.memory.load(self.buffers[name], array)

    def launch(self, log: Log | None = None) -> None:
        """Launch kernel by kernel.

        Raises:
            SessionFailed: the library refuses.
        """
        with self.memory.current():
            if not self.context.execute_async_v3(self.memory.stream):
                reason = "is the GPU out of memory?" if log is None else log.reason()
                raise SessionFailed(f"{self.library.title} failed to launch: {reason}")

    def launch_logged(self) -> None:
        """`launch`, with the library's reason in the error."""
        with captured(self.trt) as (_, log):
            self.launch(log)

    def start(self) -> None:
        """Replay the graph if there is one, else launch."""
        if self.replay is not None:
            self.replay()
        else:
            self.launch()

    def capture(self) -> None:
        """Capture a graph of `launch`; if that fails, ``why_plain`` says why."""
        self.tried = True
        if not self.library.capturable(self.context, self.memory.stream):
            self.why_plain = "the library says that this engine cannot be captured"
            return
        try:
            with captured(self.trt) as (_, log):
                self.replay = self.memory.capture(lambda: self.launch(log))
        except (RuntimeError, SessionFailed) as exc:
            text = str(exc).strip() or type(exc).__name__
            self.why_plain = f"capture failed ({text.splitlines()[0]})"

    def spoil(self, names: tuple[str, ...]) -> None:
        """Fill outputs with NaN, so that a graph that captured nothing does not seem to give the
        outputs of the plain run.
        """
        with self.memory.current():
            for name in names:
                if self.buffers[name].is_floating_point():
                    self.buffers[name].fill_(float("nan"))


class TrtBound(Bound):
    """Inputs of one batch size, copied to the device again after another run has used the buffers.

    Args:
        backend: name of the session's runtime.
        execution: context and buffers of the batch size, shared with the session.
        inputs: host arrays; must not be changed.
        read: copies the outputs to the host and checks them.
    """

    def __init__(
        self,
        backend: str,
        execution: Execution,
        inputs: Arrays,
        read: Callable[[Execution], dict[str, NDArray[Any]]],
    ) -> None:
        boundary: Boundary = "device" if execution.replay is None else "graph"
        super().__init__(backend, boundary, execution.memory.stream)
        self._execution: Execution | None = execution
        self._memory, self._inputs, self._read = execution.memory, inputs, read

    def _current(self) -> Execution:
        assert self._execution is not None  # only after `close`
        return self._execution

    def _launch(self) -> None:
        execution = self._current()
        if execution.loaded is not self._inputs:
            with Translated(self.backend):
                execution.load(self._inputs)
            execution.loaded = self._inputs
        execution.start()

    def _wait(self) -> None:
        with Translated(self.backend):
            self._memory.synchronize()

    def _outputs(self) -> dict[str, NDArray[Any]]:
        execution = self._current()
        if execution.loaded is not self._inputs:  # the outputs belong to another run
            self._launch()
        return self._read(execution)

    def _drop(self) -> None:
        execution = self._current()
        if execution.loaded is self._inputs:
            execution.loaded = None
        self._execution, self._inputs = None, {}
