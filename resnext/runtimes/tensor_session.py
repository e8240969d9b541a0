"""The common part of PyTorch sessions: a function from images to logits, with bound buffers, a
stream and a CUDA graph.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from resnext.artifact.specs import BatchRange
from resnext.errors import MissingRequirement, ResnextError, SessionFailed
from resnext.machine.faults import environment_fault

from .buffers import DeviceMemory, Replay, cpu_threads, full_float32, full_float32_on_cpu
from .registry import SessionOptions
from .session import Arrays, Bound, Boundary, Session

#: Runs before a capture: cuDNN and Inductor choose kernels in the first runs, and that must not be
#: captured.
WARM_RUNS = 3


class TensorSession(Session):
    """A function of one tensor, on a CPU or on CUDA with a dedicated stream.

    `Bound.enqueue` replays a CUDA graph if the options request one; `run` launches kernel by
    kernel. PyTorch's process-wide settings (TF32, cuDNN's search, threads, current stream) are
    changed inside each call and restored at its end.

    Args:
        name: the backend's.
        options: threads, and whether to use CUDA graphs.
        memory: where tensors live.
        batch_ranges: as for any session.
    """

    def __init__(
        self,
        name: str,
        options: SessionOptions,
        memory: DeviceMemory,
        batch_ranges: tuple[BatchRange, ...] = (),
    ) -> None:
        super().__init__(name, batch_ranges)
        self._options, self._memory = options, memory
        self._threads = options.thread_count  # asked once: `settings` is in the timed path
        self._graph = "nothing bound"

    @abstractmethod
    def call(self, images: Tensor) -> Tensor:
        """Run; called inside `settings`."""

    @abstractmethod
    def _ready(self, images: Tensor) -> Tensor:
        """``images``, row-major on the device, in the form that `call` needs."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Copy in, run, copy out."""
        self.check_inputs(inputs)
        with Translated(self.backend), self.settings():
            images = self._memory.place(inputs[self.inputs[0].name])
            return self.named(self.call(self._ready(images)))

    def _bind(self, inputs: Arrays) -> Bound:
        """Place the input and run; on CUDA, capture a CUDA graph if the options request one.

        Raises:
            SessionFailed: the capture failed; ``cuda_graph=False`` avoids it.
        """
        array = inputs[self.inputs[0].name]
        capture = self._memory.on_cuda and self._options.cuda_graph
        with Translated(self.backend), self.settings():
            owned = self._memory.empty(array.shape, array.dtype.name)
            self._memory.load(owned, array)
            bound = _TensorBound(self, self._memory, self._ready(owned), capture=capture)
        self._graph = "on" if capture else "off"
        return bound

    @contextmanager
    def settings(self) -> Iterator[None]:
        """PyTorch's process-wide settings for a call, restored on exit."""
        with torch.inference_mode(), self._memory.current():
            if self._memory.on_cuda:
                with full_float32():
                    yield
            else:
                with cpu_threads(self._threads), full_float32_on_cpu():
                    yield

    def named(self, result: Tensor) -> dict[str, NDArray[Any]]:
        """A copy of the logits on the host, by the output's name."""
        return {self.outputs[0].name: self._memory.fetch(result.float())}

    def _device_notes(self) -> dict[str, str]:
        if self._memory.on_cuda:
            return {"cuda graph": self._graph}
        with cpu_threads(self._threads):
            return {"threads": str(torch.get_num_threads())}


class _TensorBound(Bound):
    """One input on the device, and its CUDA graph.

    Args:
        session: the session to call, inside its settings.
        memory: stream and graphs.
        images: the input on the device, in the form that the session's `call` needs.
        capture: whether to capture a CUDA graph for `enqueue`.
    """

    def __init__(
        self, session: TensorSession, memory: DeviceMemory, images: Tensor, *, capture: bool
    ) -> None:
        boundary: Boundary = "host" if not memory.on_cuda else "graph" if capture else "device"
        super().__init__(session.backend, boundary, memory.stream if memory.on_cuda else None)
        self._session, self._memory = session, memory
        self._images: Tensor | None = images
        self._result: Tensor | None = None
        self._replay: Replay | None = None
        for _ in range(WARM_RUNS if capture else 1):
            self._call()
        memory.synchronize()
        if capture:
            self._replay = memory.capture(self._call)
            self._replay()
            memory.synchronize()

    def _call(self) -> None:
        assert self._images is not None  # only after `close`
        self._result = self._session.call(self._images)

    def _launch(self) -> None:
        if self._replay is not None:
            self._replay()
            return
        with self._session.settings():
            self._call()

    def _wait(self) -> None:
        with Translated(self.backend):
            self._memory.synchronize()

    def _outputs(self) -> dict[str, NDArray[Any]]:
        assert self._result is not None  # `__init__` has run once
        with Translated(self.backend), self._session.settings():
            return self._session.named(self._result)

    def _drop(self) -> None:
        self._replay = self._images = self._result = None


class Translated:
    """Turns PyTorch's errors into one line."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        if error is None or isinstance(error, ResnextError):  # some are RuntimeErrors, too
            return
        if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
            raise MissingRequirement(
                f"{self._backend}: out of memory", hint="use a smaller `batch`"
            ) from error
        # Not all errors of PyTorch and Triton derive from RuntimeError.
        if isinstance(error, RuntimeError) or type(error).__module__.startswith(
            ("torch.", "triton.")
        ):
            text = str(error).strip()
            if any(sign in f"{type(error).__name__} {text}" for sign in _NO_COMPILER):
                raise MissingRequirement(
                    f"{self._backend} needs a C and C++ compiler",
                    hint="apt-get install g++, or use `backend` torch",
                ) from error
            if fault := environment_fault(error):
                raise fault from error
            # The compiler's first line only says that it failed; the reason is in the next.
            lines = [
                line
                for line in text.splitlines()
                if line.strip() and not line.rstrip().endswith("raised:")
            ]
            raise SessionFailed(
                f"{self._backend} failed: {lines[0] if lines else type(error).__name__}"
            ) from error


#: In PyTorch's errors if it finds no C or C++ compiler.
_NO_COMPILER = (
    "InvalidCxxCompiler",
    "No working C++ compiler",
    "Failed to find C compiler",
    "TritonMissing",
)
