"""Buffers, one stream and CUDA graphs for a session, through PyTorch: no second CUDA binding in the process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import MissingRequirement
from ..session import numpy_dtype

Replay = Callable[[], None]


class DeviceMemory(ABC):
    """Where a session's tensors live and its work is queued.

    Attributes:
        stream: handle of the stream that everything is queued on.
        device: for people.
    """

    stream: int
    device: str

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """A device tensor; it belongs to the caller."""

    @abstractmethod
    def load(self, target: torch.Tensor, array: NDArray[Any]) -> None:
        """Queue a copy of ``array`` into ``target``; ``array`` may be changed as soon as this returns."""

    @abstractmethod
    def fetch(self, source: torch.Tensor) -> NDArray[Any]:
        """Wait for the stream; a copy of ``source`` that belongs to the caller."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for the stream."""

    @abstractmethod
    def current(self) -> AbstractContextManager[Any]:
        """Make the stream the current one inside a block."""

    @abstractmethod
    def capture(self, work: Callable[[], None]) -> Replay:
        """Capture what ``work`` queues in a CUDA graph; returns what replays it.

        Raises:
            RuntimeError: it cannot be captured.
        """


class CudaMemory(DeviceMemory):
    """Device 0, a stream of its own, and page-locked staging for copies."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MissingRequirement(
                f"this PyTorch ({torch.__version__}) has no CUDA, and device buffers go through it; "
                "install a CUDA build of torch"
            )
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.stream = int(self._stream.cuda_stream)
        self.device = f"cuda:{torch.cuda.current_device()} {torch.cuda.get_device_name()}"
        self._staging: dict[tuple[tuple[int, ...], torch.dtype], torch.Tensor] = {}

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """On the device, allocated on the session's stream."""
        with torch.cuda.stream(self._stream):
            return torch.empty(shape, dtype=torch_dtype(dtype), device="cuda")

    def load(self, target: torch.Tensor, array: NDArray[Any]) -> None:
        """Through page-locked memory, which the last copy must have left."""
        staged = self._staged(target)
        self._stream.synchronize()
        host_view(staged)[...] = host_bits(array)
        with torch.cuda.stream(self._stream):
            target.copy_(staged, non_blocking=True)

    def fetch(self, source: torch.Tensor) -> NDArray[Any]:
        """Through page-locked memory, then copied to memory of the caller's own."""
        staged = self._staged(source)
        with torch.cuda.stream(self._stream):
            staged.copy_(source, non_blocking=True)
        self._stream.synchronize()
        return from_host(staged)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def current(self) -> AbstractContextManager[Any]:
        """PyTorch's current stream."""
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context

    def capture(self, work: Callable[[], None]) -> Replay:
        """With PyTorch's own graph."""
        graph = torch.cuda.CUDAGraph()
        # PyTorch leaves its own block on the captured stream where a capture fails; the outer one puts that right.
        # Other threads, which libraries have for compiling, may allocate meanwhile: only this one is held to the rules.
        with self.current(), torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def _staged(self, like: torch.Tensor) -> torch.Tensor:
        key = (tuple(like.shape), like.dtype)
        if key not in self._staging:
            self._staging[key] = torch.empty(key[0], dtype=key[1], pin_memory=True)
        return self._staging[key]


def host_view(tensor: torch.Tensor) -> NDArray[Any]:
    """The memory of a CPU tensor; bfloat16, which PyTorch does not show to NumPy, as the integers of its bits."""
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def from_host(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy of a CPU tensor."""
    copy = np.array(host_view(tensor))
    return copy.view(numpy_dtype("bfloat16")) if tensor.dtype == torch.bfloat16 else copy


def host_bits(array: NDArray[Any]) -> NDArray[Any]:
    """``array`` as `host_view` shows a tensor of its element type: bfloat16 as the integers of its bits."""
    return array.view(np.int16) if array.dtype == numpy_dtype("bfloat16") else array


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's element type called ``name``, for example ``bfloat16``."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
