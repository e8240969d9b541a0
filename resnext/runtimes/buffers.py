"""Buffers, a stream and CUDA graphs for a session, through PyTorch, so that the process needs no
second CUDA binding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from resnext.artifact.specs import numpy_dtype
from resnext.errors import MissingRequirement

Replay = Callable[[], None]
_T = TypeVar("_T")


class DeviceMemory(ABC):
    """The memory of a session's tensors, and the stream for its work.

    Attributes:
        stream: handle of the stream for all work.
        device: human-readable device name.
        on_cuda: whether there are streams, events and graphs.
        torch_device: PyTorch's name of the device.
    """

    stream: int
    device: str
    on_cuda = True
    torch_device = "cuda"

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """An uninitialized device tensor; the caller owns it."""

    @abstractmethod
    def load(self, target: torch.Tensor, array: NDArray[Any]) -> None:
        """Queue a copy of ``array`` into ``target``; ``array`` may change once this returns."""

    def place(self, array: NDArray[Any]) -> torch.Tensor:
        """``array`` on the device, row-major. On a CPU it may share the array's memory, so it must
        not outlive the call.
        """
        target = self.empty(array.shape, array.dtype.name)
        self.load(target, array)
        return target

    @abstractmethod
    def fetch(self, source: torch.Tensor) -> NDArray[Any]:
        """Wait for the stream, and return a copy of ``source``; the caller owns it."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for the stream."""

    @abstractmethod
    def current(self) -> AbstractContextManager[Any]:
        """Make the stream PyTorch's current one inside a block."""

    @abstractmethod
    def capture(self, work: Callable[[], None]) -> Replay:
        """Capture the work that ``work`` queues in a CUDA graph, and return its replay.

        Raises:
            RuntimeError: the work cannot be captured.
        """


class CudaMemory(DeviceMemory):
    """Device 0, with a dedicated stream and page-locked staging buffers for copies."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MissingRequirement(
                f"this PyTorch ({torch.__version__}) has no CUDA, and device buffers go through it",
                hint="install a CUDA build of torch",
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
        """Copy through page-locked memory, once the last copy from it has finished."""
        staged = self._staged(target)
        self._stream.synchronize()
        host_view(staged)[...] = host_bits(array)
        with torch.cuda.stream(self._stream):
            target.copy_(staged, non_blocking=True)

    def fetch(self, source: torch.Tensor) -> NDArray[Any]:
        """Copy through page-locked memory."""
        staged = self._staged(source)
        with torch.cuda.stream(self._stream):
            staged.copy_(source, non_blocking=True)
        self._stream.synchronize()
        return from_host(staged)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def current(self) -> AbstractContextManager[Any]:
        """The session's stream."""
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context

    def capture(self, work: Callable[[], None]) -> Replay:
        """A graph of PyTorch."""
        graph = torch.cuda.CUDAGraph()
        # If a capture fails, PyTorch leaves the captured stream as the current one; the outer block
        # restores it. Only this thread is restricted during the capture: threads in which libraries
        # compile may allocate.
        with (
            self.current(),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
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


class HostMemory(DeviceMemory):
    """Host memory; nothing is ever pending."""

    stream = 0
    on_cuda = False
    device = torch_device = "cpu"

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """An uninitialized row-major tensor."""
        return torch.empty(shape, dtype=torch_dtype(dtype))

    def load(self, target: torch.Tensor, array: NDArray[Any]) -> None:
        """Copy."""
        host_view(target)[...] = host_bits(array)

    def place(self, array: NDArray[Any]) -> torch.Tensor:
        """``array`` without a copy, if it is row-major and writable."""
        array = np.require(array, requirements=["C", "W"])
        # NumPy's strides of a dimension of size 1 are arbitrary, but compiled code depends on them.
        rows = torch.empty(array.shape, dtype=torch.uint8, device="meta").stride()
        return torch.from_numpy(array).as_strided(array.shape, rows)

    def fetch(self, source: torch.Tensor) -> NDArray[Any]:
        """Copy."""
        return from_host(source.contiguous())

    def synchronize(self) -> None:
        """Nothing is pending."""

    def current(self) -> AbstractContextManager[Any]:
        """Nothing to change."""
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Replay:  # noqa: ARG002  # the interface's
        """Always fails."""
        raise RuntimeError("a CPU has no CUDA graphs")


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 as float32, not TF32 or bfloat16, and let cuDNN search for the fastest
    kernels; restore the previous settings on exit.

    PyTorch keeps these settings for the whole process: a session that left them changed would
    decide how the next one runs. Both of PyTorch's interfaces to them are set, because it refuses
    to read one that disagrees with the other. Takes about 10 us.
    """
    cudnn: Any = torch.backends.cudnn  # torch's stubs lack attributes that it adds at run time
    exact: tuple[Any, ...] = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, *_on_cpu())
    previous = [(operator, operator.fp32_precision) for operator in exact]
    legacy = _readable(lambda: cudnn.allow_tf32), _readable(torch.get_float32_matmul_precision)
    search = cudnn.benchmark
    try:
        cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        for operator in exact:
            operator.fp32_precision = "ieee"
        cudnn.benchmark = True
        yield
    finally:
        cudnn.benchmark = search
        if legacy[1] is not None:
            torch.set_float32_matmul_precision(legacy[1])
        if legacy[0] is not None:
            cudnn.allow_tf32 = legacy[0]
        for operator, precision in previous:
            operator.fp32_precision = precision


def full_float32_on_cpu() -> AbstractContextManager[None]:
    """`full_float32` if the process lets a CPU round float32, else nothing: looking takes 2 us."""
    rounded = any(operator.fp32_precision not in ("none", "ieee") for operator in _on_cpu())
    return full_float32() if rounded else nullcontext()


def _on_cpu() -> tuple[Any, ...]:
    """oneDNN's settings; ``torch.set_float32_matmul_precision("medium")`` sets one of them."""
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.conv, mkldnn.matmul


def _readable(setting: Callable[[], _T]) -> _T | None:
    try:
        return setting()
    except RuntimeError:  # set through the other interface
        return None


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads inside the block."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def host_view(tensor: torch.Tensor) -> NDArray[Any]:
    """The memory of a CPU tensor as an array; bfloat16, which PyTorch cannot convert, as int16 with
    the same bits.
    """
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def from_host(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy of a CPU tensor."""
    copy = np.array(host_view(tensor))
    return copy.view(numpy_dtype("bfloat16")) if tensor.dtype == torch.bfloat16 else copy


def host_bits(array: NDArray[Any]) -> NDArray[Any]:
    """``array`` in the form of `host_view`: bfloat16 as int16 with the same bits."""
    return array.view(np.int16) if array.dtype == numpy_dtype("bfloat16") else array


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's element type called ``name``, for example ``bfloat16``."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
