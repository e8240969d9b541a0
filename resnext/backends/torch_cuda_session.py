"""PyTorch on CUDA: a stream of its own, and a CUDA graph for the bound shape."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from ..session import Arrays, Boundary, Delivered
from ..weights import Weights
from . import SessionOptions
from .torch_session import TorchSession, Translated


class CudaTorchSession(TorchSession):
    """The network on CUDA, on a stream of its own: `enqueue` replays a CUDA graph, `run` launches kernel by kernel."""

    def __init__(self, weights: Weights, options: SessionOptions, name: str, device: torch.device) -> None:
        # float32 means float32: TF32 would be a precision that nobody asked for.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        super().__init__(weights, options, name, device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream.wait_stream(torch.cuda.current_stream(device))  # the weights were laid out over there

    def bind(self, inputs: Arrays) -> None:
        """As on a CPU, on the session's stream; then capture a CUDA graph where options ask for one.

        Raises:
            SessionFailed: the capture failed; ``cuda_graph=False`` goes without.
        """
        self._graph = None
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream), Translated(self.backend):
            super().bind(inputs)
            for _ in range(3):  # cuDNN and Inductor choose kernels in the first runs, which must not be captured
                super().enqueue()
            self.synchronize()
        if self._options.cuda_graph:
            graph = torch.cuda.CUDAGraph()
            with torch.inference_mode(), Translated(self.backend):
                with torch.cuda.graph(graph, stream=self._stream):
                    self._result = self._forward(self._bound)  # type: ignore[arg-type]  # set by super().bind
                graph.replay()
            self._graph = graph
            self.synchronize()

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Copy in, run, copy out, on the session's stream."""
        with torch.cuda.stream(self._stream):
            return super().run(inputs)

    def enqueue(self) -> None:
        """Replay the graph, or launch kernel by kernel."""
        with torch.cuda.stream(self._stream):
            if self._graph is not None:
                self._graph.replay()
            else:
                super().enqueue()

    def synchronize(self) -> None:
        """Wait for the session's stream."""
        self._stream.synchronize()

    def delivered(self) -> Delivered:
        """As on a CPU, on the session's stream."""
        with torch.cuda.stream(self._stream), Translated(self.backend):
            found = super().delivered()
        self.synchronize()
        return found

    def fetch(self) -> dict[str, NDArray[Any]]:
        """A copy of the last logits."""
        self.synchronize()
        return super().fetch()

    @property
    def enqueue_boundary(self) -> Boundary:
        """``graph`` where one was captured."""
        return "graph" if self._graph is not None else "device"

    @property
    def cuda_stream(self) -> int:
        """The session's own stream."""
        return int(self._stream.cuda_stream)

    def close(self) -> None:
        """Drop graph, model and buffers."""
        self._graph = None
        super().close()

    def _device_name(self) -> str:
        return f"cuda:{torch.cuda.current_device()} {torch.cuda.get_device_name(self._device)}"
