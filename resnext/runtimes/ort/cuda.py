"""ONNX Runtime's CUDA provider: device buffers bound once, a CUDA graph, and no node left to the
CPU in silence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.errors import ResnextError, SessionFailed, first_line
from resnext.precision import Precision
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Boundary, Delivered

from .session import PROVIDERS, OrtSession, preload_libraries, session_options


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


class CudaOrtSession(OrtSession):
    """ONNX Runtime's CUDA provider: `enqueue` works on device buffers bound once, in a CUDA graph
    where asked for.

    A captured graph has fixed addresses and one shape, so it lives in a session of its own: `run`
        always goes through a
    plain one, copies in and out, and leaves what is bound alone.
    """

    device = "cuda"

    def __init__(self, artifact: Artifact, options: SessionOptions, name: str) -> None:
        preload_libraries()
        self._stream: Any = None
        self._own: Any = None
        self._binding: Any = None
        self._held: dict[str, Any] = {}
        self._asynchronous = ort.RunOptions()
        # Without this ONNX Runtime waits for the device inside run, and a launch could not be told
        # from a run.
        self._asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")
        super().__init__(artifact, options, name)

    def bind(self, inputs: Arrays) -> None:
        """Copy ``inputs`` to the device, make outputs there, and run until a CUDA graph is
        captured.
        """
        self.check_inputs(inputs)
        batch = next(iter(inputs.values())).shape[0]
        self._binding = self._own = None
        try:
            self._own = self._session_for(batch)
            binding = (self._own or self._native).io_binding()
            held = {}
            for name, array in inputs.items():
                held[name] = ort.OrtValue.ortvalue_from_numpy(
                    np.ascontiguousarray(array), "cuda", 0
                )
                binding.bind_ortvalue_input(name, held[name])
            for spec in self.outputs:
                shape = [batch if size is None else size for size in spec.shape]
                held[spec.name] = ort.OrtValue.ortvalue_from_shape_and_type(
                    shape, np.dtype(spec.dtype), "cuda", 0
                )
                binding.bind_ortvalue_output(spec.name, held[spec.name])
            self._held, self._binding = held, binding
            for _ in range(3):
                self.enqueue()
            self.synchronize()
        except ResnextError:
            raise
        except Exception as exc:  # onnxruntime's errors have no common base of their own
            self._binding = self._own = None
            raise SessionFailed(f"{self.backend} failed: {first_line(exc)}") from exc

    def enqueue(self) -> None:
        """Launch over the bound device buffers without waiting."""
        (self._own or self._native).run_with_iobinding(self._binding, self._asynchronous)

    def synchronize(self) -> None:
        """Wait for the session's stream."""
        if self._stream is not None:
            self._stream.synchronize()
        elif self._binding is not None:
            self._binding.synchronize_outputs()

    def fetch(self) -> dict[str, NDArray[Any]]:
        """Copies of the outputs, on the host."""
        if self._binding is None:
            raise SessionFailed("nothing is bound; call bind() first")
        self.synchronize()
        return {name: self._held[name].numpy() for name in self._names}

    def delivered(self) -> Delivered:
        """As on a CPU; a graph cannot be profiled, so the profiled run is a plain one.

        The element type is that of a layer's storage: ONNX Runtime may still retry a convolution in
        TF32 where cuDNN has no plan without it, and does not say so. Parity would show it.
        """
        found = super().delivered()
        notes = {
            "cuda graph": "on" if self.enqueue_boundary == "graph" else "off",
            "convolution kernels": "cuDNN's guess (heuristic mode B), none of them timed",
            "memory format": "nchw",
        }
        return Delivered(found.device, found.layers, {**found.notes, **notes})

    @property
    def enqueue_boundary(self) -> Boundary:
        """``graph`` where one was captured."""
        return "graph" if self._own is not None and self._options.cuda_graph else "device"

    @property
    def cuda_stream(self) -> int | None:
        """The stream that ONNX Runtime was given, where PyTorch has CUDA to make one."""
        return None if self._stream is None else int(self._stream.cuda_stream)

    def close(self) -> None:
        """Drop sessions, binding and device buffers."""
        self._binding = self._own = None
        self._held = {}
        super().close()

    def _create(self, native: ort.SessionOptions) -> Any:
        return self._load(native, self._providers(cuda_graph=False))

    def _session_for(self, batch: int) -> Any:  # noqa: ARG002  # a provider that builds for one batch needs it
        """A session for what is bound alone, where it must have its own: a captured graph has one
        shape.
        """
        if not self._options.cuda_graph:
            return None
        return self._load(session_options(self._options), self._providers(cuda_graph=True))

    def _providers(self, *, cuda_graph: bool) -> list[Any]:
        settings = provider_settings(self._artifact.manifest.precision)
        if cuda_graph:
            settings["enable_cuda_graph"] = "1"
        if (stream := self._torch_stream()) is not None:
            settings["user_compute_stream"] = str(stream.cuda_stream)
        return [(PROVIDERS["cuda"], settings)]

    def _load(self, native: ort.SessionOptions, providers: list[Any]) -> Any:
        # A node on the CPU provider would be a silent fallback: have ONNX Runtime refuse the
        # session instead.
        native.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return super()._load(native, providers)

    def _torch_stream(self) -> Any:
        """A stream that the harness can record events on; None where PyTorch has no CUDA."""
        import torch

        if self._stream is None and torch.cuda.is_available():
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self._stream
