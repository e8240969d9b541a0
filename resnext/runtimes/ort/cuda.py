"""ONNX Runtime's CUDA provider: device buffers, a CUDA graph, and no node left to the CPU in
silence.
"""

from __future__ import annotations

from typing import Any

import onnxruntime as ort

from resnext.artifact.files import Artifact
from resnext.artifact.specs import TensorSpec
from resnext.precision import Precision
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Delivered

from . import cuda_probe, device_bound
from .profile import layers_from_profile, profiled_run
from .provider import Provider, load, session_options


def provider_settings(precision: Precision) -> dict[str, str]:
    """Options of the CUDA provider for a network of ``precision``, without those of one session
    (graph, stream).

    TF32 is on unless told otherwise, and is turned off for float32 alone: the provider then drops
        every plan of cuDNN's
    that uses tensor cores, without a look at the element type, which would cost float16 its fast
    kernels.

    The exhaustive search is the best that there is and has been none since ONNX Runtime 1.20:
    convolutions went over to cuDNN's graph interface, where it means cuDNN's own guess in its
    slower, better mode (microsoft/onnxruntime#22705).
    """
    exact = {"use_tf32": "0"} if precision == "fp32" else {}
    return {"device_id": "0", "cudnn_conv_algo_search": "EXHAUSTIVE", **exact}


class CudaProvider(Provider):
    """The CUDA provider, in a CUDA graph if asked for: a graph has a session of its own."""

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
        """Buffers on the device; the first runs capture the graph."""
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
        """From a profiled run without a graph, which cannot be profiled.

        The element type is that of a layer's storage: ONNX Runtime may still retry a convolution in
        TF32 if cuDNN has no plan without it, and does not say so. Parity would show it.
        """
        session, events = profiled_run(
            session_options(self.options), self._load, inputs, batch=1, backend=self.backend
        )
        notes = {
            "providers": ", ".join(session.get_providers()),
            "cuda graph": self._graph,
            "convolution kernels": "cuDNN's guess (heuristic mode B), none of them timed",
            "memory format": "nchw",
        }
        return Delivered(self.device, layers_from_profile(events, self.artifact.path), notes)

    def _load(self, native: ort.SessionOptions, *, cuda_graph: bool = False) -> Any:
        # A node on the CPU provider would be a silent fallback: have ONNX Runtime refuse the
        # session instead.
        native.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = provider_settings(self.artifact.manifest.precision)
        if cuda_graph:
            settings["enable_cuda_graph"] = "1"
        if self._stream is not None:
            settings["user_compute_stream"] = str(self._stream.cuda_stream)
        return load(self.artifact.path, native, self.name, settings, backend=self.backend)
