"""OpenVINO on a CPU, from an ONNX file or a packed IR.

By default, OpenVINO computes float32 networks in bfloat16 if the processor has instructions for it.
So the precision is always requested explicitly, and every compiled network is checked for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_facts, different_tensors, refuse_different
from resnext.artifact.specs import numpy_dtype
from resnext.errors import (
    BadArtifact,
    MissingRequirement,
    SessionFailed,
    SilentFallback,
)
from resnext.precision import PRECISIONS
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Delivered, LayerTime, Session

from .ir import READERS, metadata_value, modules_by_node, tensor_spec, weight_dtypes
from .layers import HEAVY, delivered_layers, layer_facts, layer_times, mean_times
from .library import VERSION, hints, ov, properties, shared_core, translated, type_name

_DEVICE = "CPU"
#: The precision to request, by the artifact's. The float layers of a quantized network compute in
#: float32.
_PRECISIONS = {"fp32": ov.Type.f32, "fp16": ov.Type.f16, "bf16": ov.Type.bf16}


class OpenvinoSession(Session):
    """A network on OpenVINO's CPU plugin, tuned for latency, with a stream for each request that
    may be in flight.

    The network is compiled for any batch when the session is opened, and again for the exact shape
    of a bound input. OpenVINO's model cache is not used: it runs damaged cache files without an
    error, and no digest covers them.

    Args:
        artifact: the ONNX file or packed IR.
        options: threads and streams.
        name: the backend's.
    """

    _hides_nan = "OpenVINO's ReLU"

    def __init__(self, artifact: Artifact, options: SessionOptions, name: str) -> None:
        super().__init__(name, artifact.manifest.batch_ranges)
        self._artifact, self._options = artifact, options
        self._core = shared_core()
        with translated(BadArtifact, f"OpenVINO cannot read {artifact.path}"):
            # The model's constants are views of this memory, which must outlive it.
            self._model, self._memory = READERS[artifact.manifest.kind](self._core, artifact)
        self.inputs = tuple(tensor_spec(port) for port in self._model.inputs)
        self.outputs = tuple(tensor_spec(port) for port in self._model.outputs)
        self._check_manifest()
        self._any = self._compile(self._model)
        # One request for each stream.
        self._runners = self._requests(self._any)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._exact: Any = None
        self._exact_runners: list[Any] = []

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on the caller's arrays, and copy the outputs, which OpenVINO would overwrite.

        Raises:
            BadInput: as `Session.run`, or an input holds NaN or infinity: OpenVINO's ReLU turns
                NaN into 0, so the logits would look valid.
            SessionFailed: OpenVINO failed, or the session is closed.
        """
        return self._run_on(0, inputs)

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        """`run` with a separate request for each stream."""
        return tuple(partial(self._run_on, stream) for stream in range(self._options.streams))

    def _run_on(self, stream: int, inputs: Arrays) -> dict[str, NDArray[Any]]:
        self.check_inputs(inputs)
        exact = self._shapes == {name: array.shape for name, array in inputs.items()}
        request = (self._exact_runners if exact else self._runners)[stream]
        with translated(SessionFailed, f"{self.backend} failed"):
            # The arrays must outlive the run; a tensor does not keep them alive.
            arrays = {name: _usable(array) for name, array in inputs.items()}
            _set_inputs(request, arrays)
            self.infer(request)
            return self.copies(request)

    def infer(self, request: Any) -> None:
        """Run an inference request to its end."""
        if self._options.streams == 1:
            request.infer(share_outputs=True)
        else:  # on a stream's own threads, whatever thread the caller is
            request.start_async()
            request.wait()

    def _bind(self, inputs: Arrays) -> OpenvinoBound:
        """Compile for the shape of ``inputs``, unless the last bound input had it, and run once.

        Raises:
            BadInput: as `run`.
            SilentFallback: OpenVINO does not compute this shape in the artifact's precision.
            SessionFailed: OpenVINO failed, or the session is closed.
        """
        arrays = {name: np.array(array, order="C") for name, array in inputs.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != self._shapes:
            self._shapes = {}
            self._exact = self._compiled_for(shapes)
            self._exact_runners = self._requests(self._exact)
            self._shapes = shapes
        with translated(SessionFailed, f"{self.backend} failed"):
            bound = OpenvinoBound(self, self._exact.create_infer_request(), arrays)
            bound.enqueue()
        return bound

    def delivered(self) -> Delivered:
        """Every layer of the network compiled for the bound shape, or for any batch if nothing is
        bound, with the element type that it computes in.
        """
        if self._closed:
            raise SessionFailed(f"{self.backend}: the session is closed")
        compiled = self._exact or self._any
        kernels = Counter(
            facts["primitiveType"] for facts in layer_facts(compiled) if facts["layerType"] in HEAVY
        )
        notes = {
            "library": f"OpenVINO {VERSION}",
            "threads": str(compiled.get_property(properties.inference_num_threads)),
            "streams": str(compiled.get_property(properties.num_streams)),
            "shape": (
                ", ".join("x".join(map(str, shape)) for shape in self._shapes.values())
                or "any batch"
            ),
            "kernels": ", ".join(f"{count} {kernel}" for kernel, count in kernels.most_common()),
        }
        return Delivered("cpu", delivered_layers(compiled, modules_by_node(self._model)), notes)

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object] = lambda: None
    ) -> tuple[LayerTime, ...]:
        """From OpenVINO's performance counters, in a network compiled for this shape."""
        self.check_inputs(inputs)
        shapes = {name: array.shape for name, array in inputs.items()}
        compiled = self._compile(self._reshaped(shapes), {properties.enable_profiling: True})
        with translated(SessionFailed, f"{self.backend} failed"):
            arrays = {name: _usable(array) for name, array in inputs.items()}
            request = compiled.create_infer_request()
            _set_inputs(request, arrays)
            means = []
            for index in range(runs + 1):
                if index:
                    before_each()
                request.infer(share_outputs=True)
                means.append(mean_times(request))
        return layer_times(compiled, modules_by_node(self._model), means)

    def close(self) -> None:
        """Release requests and networks, then the memory of their weights."""
        super().close()
        self._runners = self._exact_runners = []
        self._exact = self._any = None
        self._model = self._memory = None
        self._shapes = {}

    def _requests(self, compiled: Any) -> list[Any]:
        return [compiled.create_infer_request() for _ in range(self._options.streams)]

    def copies(self, request: Any) -> dict[str, NDArray[Any]]:
        """Copies of the outputs of an inference request, by name."""
        # OpenVINO returns the bits of bfloat16 as float16.
        return {
            spec.name: request.get_tensor(spec.name).data.copy().view(numpy_dtype(spec.dtype))
            for spec in self.outputs
        }

    def _compiled_for(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        """The network compiled for exactly ``shapes``."""
        if shapes == {spec.name: spec.shape for spec in self.inputs}:
            return self._any
        return self._compile(self._reshaped(shapes))

    def _reshaped(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        """A copy of the model that takes exactly ``shapes``."""
        model = self._model.clone()  # shares the weights
        with translated(SessionFailed, f"{self.backend} cannot take the input shape {shapes}"):
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        return model

    def _compile(self, model: Any, more: dict[str, Any] | None = None) -> Any:
        precision = _PRECISIONS.get(self._artifact.manifest.precision, ov.Type.f32)
        config = {
            hints.inference_precision: precision,
            hints.performance_mode: hints.PerformanceMode.LATENCY,
            properties.num_streams: self._options.streams,
            properties.inference_num_threads: self._options.thread_count,
            **(more or {}),
        }
        try:
            with translated(SessionFailed, f"OpenVINO cannot compile {self._artifact.path}"):
                compiled = self._core.compile_model(model, _DEVICE, config)
        except SessionFailed as exc:
            if _DEVICE in self._core.available_devices:
                raise
            raise MissingRequirement(
                f"this OpenVINO ({VERSION}) has no device {_DEVICE} ({exc.message})",
                hint="install the package openvino again, or use `backend` ort-cpu",
            ) from exc
        self._check_precision(compiled, precision)
        for name, requested, key in (
            ("threads", self._options.threads, properties.inference_num_threads),
            ("streams", self._options.streams, properties.num_streams),
        ):
            actual = compiled.get_property(key)
            if requested not in (None, actual):
                raise SilentFallback(
                    f"{self.backend}: {requested} {name} were requested, and OpenVINO uses {actual}"
                    " on this machine",
                    hint=f"use `{name}` {actual}",
                )
        return compiled

    def _check_precision(self, compiled: Any, requested: Any) -> None:
        """Check the precision that the compiled network reports, and that of its convolutions and
        matrix products.

        Raises:
            SilentFallback: OpenVINO computes in another precision.
        """
        precision = self._artifact.manifest.precision
        actual = compiled.get_property(hints.inference_precision)
        wrong = {type_name(actual)} if actual != requested else set()
        if precision in _PRECISIONS:  # a quantized network mixes integer and float layers
            layers = delivered_layers(compiled, {})
            wrong |= {layer.dtype for layer in layers if layer.op in HEAVY.values()} - set(
                PRECISIONS[precision].compute_dtypes
            )
        if wrong:
            raise SilentFallback(
                f"{self.backend}: {precision} was requested, and OpenVINO computes in"
                f" {', '.join(sorted(wrong))} on this processor",
                hint="export with `precision` fp32",
            )

    def _check_manifest(self) -> None:
        """Compare the manifest with the file; only the file's bytes are under a digest.

        Raises:
            BadArtifact: they differ; names the fields.
        """
        manifest = self._artifact.manifest
        different = different_facts(manifest, lambda key: metadata_value(self._model, key))
        different += different_tensors(manifest, self.inputs, self.outputs)
        dtypes = set(weight_dtypes(self._model).values())
        if (
            not manifest.foreign
            and manifest.precision in _PRECISIONS
            and dtypes != {PRECISIONS[manifest.precision].weight_dtype}
        ):
            different.append(f"precision (the weights are {', '.join(sorted(dtypes)) or 'none'})")
        refuse_different(self._artifact, different)


class OpenvinoBound(Bound):
    """One inference request and its input arrays, on the network compiled for their shape.

    Args:
        session: reads the outputs.
        request: an ``openvino.InferRequest`` that nothing else uses.
        arrays: the inputs, row-major; must not be changed.
    """

    def __init__(
        self, session: OpenvinoSession, request: Any, arrays: dict[str, NDArray[Any]]
    ) -> None:
        super().__init__(session.backend)
        # The request works on the arrays' memory, so they must outlive it.
        self._session, self._request, self._arrays = session, request, arrays
        _set_inputs(request, arrays)

    def _launch(self) -> None:
        self._session.infer(self._request)

    def _outputs(self) -> dict[str, NDArray[Any]]:
        return self._session.copies(self._request)

    def _drop(self) -> None:
        self._request, self._arrays = None, {}


def _usable(array: NDArray[Any]) -> NDArray[Any]:
    """``array``, or a copy if OpenVINO cannot work on its memory: not contiguous, not aligned, or
    read-only.
    """
    return array if array.flags.carray else np.array(array, order="C")


def _set_inputs(request: Any, arrays: dict[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.dtype == numpy_dtype("bfloat16"):  # OpenVINO takes its bits
            request.set_tensor(
                name, ov.Tensor(array.view(np.int16), ov.Shape(array.shape), ov.Type.bf16)
            )
        else:
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
