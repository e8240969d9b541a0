"""ONNX Runtime's CUDA provider: device buffers, a CUDA graph, and no node on the CPU."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_graph
from resnext.artifact.specs import TensorSpec
from resnext.precision import Precision
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Delivered

from . import cuda_probe, device_bound
from .profile import layers_from_profile, modules_by_output, profiled_run
from .provider import Provider, load, session_options


def provider_settings(precision: Precision) -> dict[str, str]:
    """Options of the CUDA provider for a network of ``precision``, except those of one session
    (graph, stream).

    TF32 is on by default. It is turned off for float32 only: without it, the provider rejects all
    of cuDNN's plans with tensor cores, whatever the element type, and float16 would lose its fast
    kernels.

    ``EXHAUSTIVE`` is the best available setting, but no search since ONNX Runtime 1.20, which moved
    convolutions to cuDNN's graph interface: it now selects the slower and better of cuDNN's two
    heuristics (microsoft/onnxruntime#22705).
    """
    exact = {"use_tf32": "0"} if precision == "fp32" else {}
    return {"device_id": "0", "cudnn_conv_algo_search": "EXHAUSTIVE", **exact}


class CudaProvider(Provider):
    """The CUDA provider. A CUDA graph, if the options request one, has its own native session."""

    name = "CUDAExecutionProvider"
    device = "cuda"

    def __init__(self, artifact: Artifact, options: SessionOptions, backend: str) -> None:
        super().__init__(artifact, options, backend)
        cuda_probe.preload_libraries()
        self._stream = device_bound.torch_stream()
        self._graph = "off"

    def open(self) -> Any:
        """A session without a graph."""
        return self._load(session_options(self.options))

    def bind(
        self, native: Any, inputs: Arrays, outputs: tuple[TensorSpec, ...]
    ) -> device_bound.DeviceBound:
        """Device buffers; the first runs capture the graph."""
        graph = self.options.cuda_graph
        if graph:
            native = self._load(session_options(self.options), cuda_graph=True)
        bound = device_bound.DeviceBound(
            self.backend,
            native,
            inputs,
            outputs,
            boundary="graph" if graph else "device",
            stream=self._stream,
            checked=self.checked,
        )
        self._graph = "on" if graph else "off"
        return bound

    def delivered(self, inputs: tuple[TensorSpec, ...]) -> Delivered:
        """All nodes, from a profiled run without a graph, since graphs cannot be profiled.

        Element types are those of a layer's storage: if cuDNN has no plan without TF32, ONNX
        Runtime retries a convolution with it and does not report that. Parity would show it.
        """
        session, events = profiled_run(
            session_options(self.options), self._load, inputs, batch=1, backend=self.backend
        )
        modules = modules_by_output(onnx_graph(self.artifact))
        notes = {
            "providers": ", ".join(session.get_providers()),
            "cuda graph": self._graph,
            "convolution kernels": "cuDNN's guess (heuristic mode B), none of them timed",
            "memory format": "nchw",
        }
        return Delivered(self.device, layers_from_profile(events, modules), notes)

    def _load(self, native: ort.SessionOptions, *, cuda_graph: bool = False) -> Any:
        # A node on the CPU provider would be a silent fallback, so make ONNX Runtime refuse the
        # session.
        native.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = provider_settings(self.artifact.manifest.precision)
        if cuda_graph:
            settings["enable_cuda_graph"] = "1"
        if self._stream is not None:
            settings["user_compute_stream"] = str(self._stream.cuda_stream)
        return load(self.artifact, native, self.name, settings, backend=self.backend)
