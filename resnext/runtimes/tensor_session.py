"""What PyTorch sessions share: one function from images to logits, bound buffers, a stream, a CUDA
graph.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from resnext.errors import MissingRequirement, SessionFailed

from .buffers import DeviceMemory, Replay, cpu_threads, full_float32
from .registry import SessionOptions
from .session import Arrays, Boundary, Session

#: Runs before a capture: cuDNN and Inductor choose kernels in the first ones, which must not be
#: captured.
WARM_RUNS = 3


class TensorSession(Session):
    """A function of one tensor, on a CPU or on CUDA with its own stream.

    `enqueue` replays a CUDA graph if the options ask for one, `run` launches kernel by kernel.
    Settings that PyTorch keeps for the whole process (TF32, cuDNN's search, threads, current
    stream) hold inside each call and no longer.

    Args:
        name: the backend's.
        options: threads, CUDA graphs or not.
        memory: where tensors live.
    """

    def __init__(self, name: str, options: SessionOptions, memory: DeviceMemory) -> None:
        self.backend = name
        self._options, self._memory = options, memory
        self._bound: Tensor | None = None
        self._result: Tensor | None = None
        self._replay: Replay | None = None

    @abstractmethod
    def _call(self, images: Tensor) -> Tensor:
        """Run; called with the settings in force."""

    @abstractmethod
    def _ready(self, images: Tensor) -> Tensor:
        """``images``, row-major on the device, as `_call` takes them."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Copy in, run, copy out."""
        self.check_inputs(inputs)
        with Translated(self.backend), self._settings():
            images = self._memory.place(inputs[self.inputs[0].name])
            return self._named(self._call(self._ready(images)))

    def bind(self, inputs: Arrays) -> None:
        """Place the input and run; on CUDA, capture a CUDA graph if the options ask for one.

        Raises:
            SessionFailed: the capture failed; ``cuda_graph=False`` goes without.
        """
        self._bound = self._result = self._replay = (
            None  # a bind that fails must not leave what the last one gave
        )
        self.check_inputs(inputs)
        array = inputs[self.inputs[0].name]
        with Translated(self.backend), self._settings():
            owned = self._memory.empty(array.shape, array.dtype.name)
            self._memory.load(owned, array)
            bound = self._ready(owned)
            capture = self._memory.on_cuda and self._options.cuda_graph
            for _ in range(WARM_RUNS if capture else 1):
                self._launch(bound)
            self._memory.synchronize()
            replay = self._memory.capture(lambda: self._launch(bound)) if capture else None
            if replay is not None:
                replay()
                self._memory.synchronize()
        self._bound, self._replay = bound, replay

    def enqueue(self) -> None:
        """Replay the graph, or run over the bound input."""
        if self._replay is not None:
            self._replay()
            return
        if self._bound is None:
            raise SessionFailed("nothing is bound; call bind() first")
        with self._settings():
            self._launch(self._bound)

    def synchronize(self) -> None:
        """Wait for the session's stream; a CPU has nothing pending."""
        with Translated(self.backend):
            self._memory.synchronize()

    def fetch(self) -> dict[str, NDArray[Any]]:
        """A copy of the last logits."""
        if self._bound is None or self._result is None:
            raise SessionFailed("nothing is bound; call bind() first")
        with Translated(self.backend), self._settings():
            return self._named(self._result)

    @property
    def enqueue_boundary(self) -> Boundary:
        """``host`` on a CPU; else ``graph`` if one was captured."""
        if not self._memory.on_cuda:
            return "host"
        return "graph" if self._replay is not None else "device"

    @property
    def cuda_stream(self) -> int | None:
        """The session's own stream."""
        return self._memory.stream if self._memory.on_cuda else None

    def close(self) -> None:
        """Drop graph and buffers."""
        self._replay = self._bound = self._result = None

    @contextmanager
    def _settings(self) -> Iterator[None]:
        with torch.inference_mode(), self._memory.current():
            if self._memory.on_cuda:
                with full_float32():
                    yield
            else:
                with cpu_threads(self._options.threads):
                    yield

    def _launch(self, images: Tensor) -> None:
        self._result = self._call(images)

    def _named(self, result: Tensor) -> dict[str, NDArray[Any]]:
        return {self.outputs[0].name: self._memory.fetch(result.float())}

    def _device_notes(self) -> dict[str, str]:
        if self._memory.on_cuda:
            return {
                "cuda graph": (
                    "nothing bound" if self._bound is None else "on" if self._replay else "off"
                )
            }
        return {"threads": str(self._options.threads or torch.get_num_threads())}


class Translated:
    """Turn what PyTorch raises into one line."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
            raise MissingRequirement(
                f"{self._backend}: out of memory; use a smaller --batch"
            ) from error
        # Not all of PyTorch's own errors derive from RuntimeError.
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("torch."):
            text = str(error).strip()
            if any(sign in f"{type(error).__name__} {text}" for sign in _NO_COMPILER):
                raise MissingRequirement(
                    f"{self._backend} needs a C and C++ compiler: apt-get install g++, or use"
                    " --backend torch"
                ) from error
            # The compiler's first line only says that it raised; the reason comes next.
            lines = [
                line
                for line in text.splitlines()
                if line.strip() and not line.rstrip().endswith("raised:")
            ]
            raise SessionFailed(
                f"{self._backend} failed: {lines[0] if lines else type(error).__name__}"
            ) from error


#: What PyTorch's compilers say where they find no C or C++ compiler.
_NO_COMPILER = (
    "InvalidCxxCompiler",
    "No working C++ compiler",
    "Failed to find C compiler",
    "TritonMissing",
)
