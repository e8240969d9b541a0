"""OpenVINO on a CPU, from an ONNX file or from an IR of our own packing. What it did not really use
is an error.

Left alone, OpenVINO computes float32 networks in bfloat16 where the processor has instructions for
it, so the precision is always asked for, and every compiled network is asked back.
"""

from __future__ import annotations

import functools
import importlib
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_facts, different_tensors, refuse_different
from resnext.artifact.specs import TensorSpec, numpy_dtype
from resnext.errors import (
    BadArtifact,
    BadInput,
    MissingRequirement,
    SessionFailed,
    SilentFallback,
)
from resnext.network.layers import module_of
from resnext.precision import PRECISIONS
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Delivered, DeliveredLayer, Session


def _load_quietly() -> Any:
    """Import OpenVINO with its telemetry away.

    Otherwise importing it alone writes an identity into the home folder and reports to Google
    Analytics. It can do without that package, and does where it is not installed.
    """
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        return importlib.import_module("openvino")
    finally:
        if hidden:
            del sys.modules[telemetry]


#: The library, as everything here must import it.
ov = _load_quietly()
properties, hints = ov.properties, ov.properties.hint


@functools.lru_cache(maxsize=1)
def shared_core() -> Any:
    """The process's ``openvino.Core``, which is never given up.

    Each one puts a signal stack of its own in place and puts back the one before when it goes.
    Where two go in the order in which they came, the thread is left with a stack that is freed, and
    the next signal kills the process.
    """
    return ov.Core()


#: What a packed IR (``.ovir``, a ZIP file) holds. Neither is compressed, so the weights are mapped
#: as they lie.
GRAPH_NAME, WEIGHTS_NAME = "model.xml", "model.bin"
#: Where OpenVINO keeps what an ONNX file's metadata says, and an IR made of one too.
METADATA = "framework"

_DEVICE = "CPU"
_SMALLER = "use a smaller `batch`"
_VERSION = ov.__version__.partition("-")[0]
#: What to ask for, by the artifact's precision. A quantized network computes the rest in float32.
_PRECISIONS = {"fp32": ov.Type.f32, "fp16": ov.Type.f16, "bf16": ov.Type.bf16}
_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f64": "float64",
    "i8": "int8",
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
}
#: Layers of a compiled network that are convolutions or matrix products, and the nodes that become
#: one.
_HEAVY = {"Convolution": "Conv", "FullyConnected": "Gemm", "MatMul": "Gemm"}
_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
#: Layers that compute nothing.
_IDLE = ("Const", "Input", "Output")


class OpenvinoSession(Session):
    """A network on OpenVINO's CPU plugin, one stream, tuned for latency.

    It is compiled for any batch when it is opened, and once more for exactly the shape that is
    bound. What OpenVINO compiles is not cached: it would run a damaged cache file without a word,
    and no digest covers that file.
    """

    def __init__(self, artifact: Artifact, options: SessionOptions, name: str) -> None:
        super().__init__(name)
        self._artifact, self._options = artifact, options
        self._core = shared_core()
        with _translated(BadArtifact, f"OpenVINO cannot read {artifact.path}"):
            # What the model's constants stand on, where that is the mapped file: it must live as
            # long as the model.
            self._model, self._memory = _READERS[artifact.manifest.kind](self._core, artifact.path)
        self.inputs = tuple(_spec(port) for port in self._model.inputs)
        self.outputs = tuple(_spec(port) for port in self._model.outputs)
        self._check_manifest()
        self._any = self._compile(self._model)
        self._runner = self._any.create_infer_request()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._exact: Any = None
        self._exact_runner: Any = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on the caller's own arrays, and copy the outputs, which OpenVINO would overwrite.

        Raises:
            BadInput: as `Session.run`, or an input holds NaN or infinity: OpenVINO's ReLU gives 0
                for NaN, so the logits would look sound.
            SessionFailed: OpenVINO failed, or the session is closed.
        """
        self.check_inputs(inputs)
        exact = self._shapes == {name: array.shape for name, array in inputs.items()}
        request = self._exact_runner if exact else self._runner
        with _translated(SessionFailed, f"{self.backend} failed"):
            # The arrays must outlive the run, which a tensor does not see to.
            arrays = {name: _tensor_ready(array) for name, array in inputs.items()}
            _set_inputs(request, arrays)
            request.infer(share_outputs=True)
            return self.copies(request)

    def _bind(self, inputs: Arrays) -> OpenvinoBound:
        """Compile for the shape of ``inputs``, unless the last one bound had it, and run once.

        Raises:
            BadInput: as `run`.
            SilentFallback: for this shape, OpenVINO computes in another precision than the
                artifact's.
            SessionFailed: OpenVINO failed, or the session is closed.
        """
        arrays = {name: np.array(array, order="C") for name, array in inputs.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != self._shapes:
            self._shapes = {}
            self._exact = self._compiled_for(shapes)
            self._exact_runner = self._exact.create_infer_request()
            self._shapes = shapes
        with _translated(SessionFailed, f"{self.backend} failed"):
            bound = OpenvinoBound(self, self._exact.create_infer_request(), arrays)
            bound.enqueue()
        return bound

    def delivered(self) -> Delivered:
        """Every layer of the compiled network, of the bound shape where there is one, with the type
        it computes in.
        """
        if self._closed:
            raise SessionFailed(f"{self.backend}: the session is closed")
        compiled = self._exact or self._any
        kernels = Counter(
            facts["primitiveType"] for facts in _facts(compiled) if facts["layerType"] in _HEAVY
        )
        notes = {
            "library": f"OpenVINO {_VERSION}",
            "threads": str(compiled.get_property(properties.inference_num_threads)),
            "streams": str(compiled.get_property(properties.num_streams)),
            "shape": (
                ", ".join("x".join(map(str, shape)) for shape in self._shapes.values())
                or "any batch"
            ),
            "kernels": ", ".join(f"{count} {kernel}" for kernel, count in kernels.most_common()),
        }
        return Delivered("cpu", _layers(compiled, _modules_by_node(self._model)), notes)

    def close(self) -> None:
        """Drop requests, networks, and last the weights that they stand on."""
        super().close()
        self._runner = self._exact_runner = None
        self._exact = self._any = None
        self._model = self._memory = None
        self._shapes = {}

    def check_inputs(self, inputs: Arrays) -> None:
        """As of any session, and every number must be finite."""
        super().check_inputs(inputs)
        for name, array in inputs.items():
            # Smallest and largest take a tenth of a millisecond for eight pictures and no memory;
            # NaN is either.
            if array.dtype.kind != "u" and not (
                np.isfinite(array.min()) and np.isfinite(array.max())
            ):
                raise BadInput(
                    f"input {name!r} holds NaN or infinity, which OpenVINO's ReLU would turn into 0"
                    " and hide"
                )

    def copies(self, request: Any) -> dict[str, NDArray[Any]]:
        """Copies of the outputs of an inference request, by name."""
        # Of bfloat16, OpenVINO shows the bits as float16's.
        return {
            spec.name: request.get_tensor(spec.name).data.copy().view(numpy_dtype(spec.dtype))
            for spec in self.outputs
        }

    def _compiled_for(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        """The network compiled for exactly ``shapes``."""
        if shapes == {spec.name: spec.shape for spec in self.inputs}:
            return self._any
        model = self._model.clone()  # it shares the weights
        with _translated(SessionFailed, f"{self.backend} cannot take the input shape {shapes}"):
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        return self._compile(model)

    def _compile(self, model: Any) -> Any:
        precision = _PRECISIONS.get(self._artifact.manifest.precision, ov.Type.f32)
        asked = {
            hints.inference_precision: precision,
            hints.performance_mode: hints.PerformanceMode.LATENCY,
            properties.num_streams: 1,
        }
        threads = self._options.threads
        if threads is not None:
            asked[properties.inference_num_threads] = threads
        try:
            with _translated(SessionFailed, f"OpenVINO cannot compile {self._artifact.path}"):
                compiled = self._core.compile_model(model, _DEVICE, asked)
        except SessionFailed as exc:
            if _DEVICE in self._core.available_devices:
                raise
            raise MissingRequirement(
                f"this OpenVINO ({_VERSION}) has no device {_DEVICE} ({exc.message})",
                hint="install the package openvino again, or use `backend` ort-cpu",
            ) from exc
        self._check_precision(compiled, precision)
        given = compiled.get_property(properties.inference_num_threads)
        if threads is not None and given != threads:
            raise SilentFallback(
                f"{self.backend}: {threads} threads were requested, and OpenVINO uses {given} on"
                " this machine",
                hint=f"use `threads` {given}",
            )
        return compiled

    def _check_precision(self, compiled: Any, asked: Any) -> None:
        """What was asked for must be what the compiled network says, and what each of its heavy
        layers computes in.
        """
        precision = self._artifact.manifest.precision
        given = compiled.get_property(hints.inference_precision)
        got = {_dtype(given)} if given != asked else set()
        if (
            precision in _PRECISIONS
        ):  # a quantized network computes some layers in integers and some not
            layers = _layers(compiled, {})
            got |= {layer.dtype for layer in layers if layer.op in _HEAVY.values()} - set(
                PRECISIONS[precision].compute_dtypes
            )
        if got:
            raise SilentFallback(
                f"{self.backend}: {precision} was requested, and OpenVINO computes in"
                f" {', '.join(sorted(got))} on this processor",
                hint="export with `precision` fp32",
            )

    def _check_manifest(self) -> None:
        """The manifest must say what the file says; only the file's bytes are under a digest.

        Raises:
            BadArtifact: names what differs.
        """
        manifest = self._artifact.manifest
        different = different_facts(manifest, lambda key: _noted(self._model, key))
        different += different_tensors(manifest, self.inputs, self.outputs)
        held = set(weight_dtypes(self._model).values())
        if manifest.precision in _PRECISIONS and held != {
            PRECISIONS[manifest.precision].weight_dtype
        }:
            different.append(f"precision (the weights are {', '.join(sorted(held)) or 'none'})")
        refuse_different(self._artifact, different)


class OpenvinoBound(Bound):
    """One inference request with its input arrays, on the network compiled for their shape.

    Args:
        session: whose outputs are read.
        request: an ``openvino.InferRequest`` that nobody else uses.
        arrays: inputs, row-major, that nobody writes to.
    """

    def __init__(
        self, session: OpenvinoSession, request: Any, arrays: dict[str, NDArray[Any]]
    ) -> None:
        super().__init__(session.backend)
        # The arrays must outlive the request, which works on their memory.
        self._session, self._request, self._arrays = session, request, arrays
        _set_inputs(request, arrays)

    def _launch(self) -> None:
        self._request.infer(share_outputs=True)

    def _outputs(self) -> dict[str, NDArray[Any]]:
        return self._session.copies(self._request)

    def _drop(self) -> None:
        self._request, self._arrays = None, {}


def weight_dtypes(model: Any) -> dict[str, str]:
    """NumPy's name of the element type that the weights of each convolution and matrix product are
    stored in.

    Args:
        model: an ``openvino.Model`` that is not compiled.

    Returns:
        By node name; a product of two computed tensors has no weights and is left out.
    """
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in _PRODUCTS:
            source = node.input(1).get_source_output().get_node()
            while (
                source.get_type_name() != "Constant" and source.inputs()
            ):  # reshaped, dequantized or decompressed
                source = source.input(0).get_source_output().get_node()
            if source.get_type_name() == "Constant":
                found[node.get_friendly_name()] = _dtype(source.get_output_element_type(0))
    return found


def read_ovir(core: Any, path: Path) -> tuple[Any, Any]:
    """Read a packed IR without copying its weights.

    Args:
        core: an ``openvino.Core``.
        path: a ZIP file with `GRAPH_NAME` and `WEIGHTS_NAME`, neither compressed.

    Returns:
        The ``openvino.Model``, and the memory of its weights: keep it as long as the model or
        anything compiled of it.

    Raises:
        BadArtifact: it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            graph, entry = packed.read(GRAPH_NAME), packed.getinfo(WEIGHTS_NAME)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise BadArtifact(
                f"{path}: {WEIGHTS_NAME} is compressed in it", hint="export the artifact again"
            )
        with path.open("rb") as file:
            file.seek(
                entry.header_offset + 26
            )  # the local header's own lengths of name and padding
            lengths = struct.unpack("<HH", file.read(4))
        start = entry.header_offset + 30 + sum(lengths)
        # Copy on write, because OpenVINO takes writeable memory only.
        weights = np.memmap(path, np.uint8, "c", start, (entry.file_size,))
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, struct.error) as exc:
        raise BadArtifact(
            f"{path} is not a packed OpenVINO IR: {exc}", hint="export the artifact again"
        ) from exc
    tensor = ov.Tensor(weights, shared_memory=True)
    return core.read_model(graph, tensor), tensor


def _read_onnx(core: Any, path: Path) -> tuple[Any, Any]:
    return core.read_model(path), None


#: How each kind of artifact is read.
_READERS = {"onnx": _read_onnx, "openvino": read_ovir}


def _facts(compiled: Any) -> list[dict[str, str]]:
    """What OpenVINO says of each layer of a compiled network, in the order of execution."""
    nodes = compiled.get_runtime_model().get_ordered_ops()
    facts = [{key: str(fact.value) for key, fact in node.get_rt_info().items()} for node in nodes]
    return [
        {**said, "name": node.get_friendly_name()} for said, node in zip(facts, nodes, strict=True)
    ]


def _layers(compiled: Any, makers: dict[str, str]) -> tuple[DeliveredLayer, ...]:
    """The layers that compute something; ``makers`` is `_modules_by_node` of what was compiled."""
    found = []
    for facts in _facts(compiled):
        kind, dtype = facts["layerType"], facts["runtimePrecision"]
        if kind not in _IDLE:
            modules = (
                _modules(facts["originalLayersNames"].split(","), makers) if kind in _HEAVY else ()
            )
            op = _HEAVY.get(kind, kind)
            found.append(
                DeliveredLayer(facts["name"], op, _DTYPES.get(dtype, dtype), "cpu", modules)
            )
    return tuple(found)


def _modules(names: list[str], makers: dict[str, str]) -> tuple[str, ...]:
    # OpenVINO splits a node in parts that it calls conv1/WithoutBiases and the like.
    found = [module for name in names if (module := module_of(name.partition("/")[0]))]
    return tuple(dict.fromkeys(found or [makers[name] for name in names if name in makers]))


def _modules_by_node(model: Any) -> dict[str, str]:
    """The module of each product and of what scale and bias make of it: some fused layers bear only
    the last name.
    """
    found: dict[str, str] = {}
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        module = module_of(name.partition("/")[0]) if kind in _PRODUCTS else None
        if kind in ("Add", "Multiply"):
            sources = [
                port.get_source_output().get_node().get_friendly_name() for port in node.inputs()
            ]
            makers = {found[source] for source in sources if source in found}
            module = makers.pop() if len(makers) == 1 else None
        if module:
            found[name] = module
    return found


def _noted(model: Any, key: str) -> str | None:
    path = [METADATA, key]
    return str(model.get_rt_info(path).value) if model.has_rt_info(path) else None


def _spec(port: Any) -> TensorSpec:
    shape = tuple(
        None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
    )
    return TensorSpec(name=port.get_any_name(), dtype=_dtype(port.get_element_type()), shape=shape)


def _dtype(type_: Any) -> str:
    name = str(type_.get_type_name())
    return _DTYPES.get(name, name)


def _tensor_ready(array: NDArray[Any]) -> NDArray[Any]:
    """``array``, or a copy where OpenVINO cannot work on its memory: not contiguous, not aligned,
    or read-only.
    """
    return array if array.flags.carray else np.array(array, order="C")


def _set_inputs(request: Any, arrays: dict[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.dtype == numpy_dtype("bfloat16"):  # which OpenVINO takes as bits alone
            request.set_tensor(
                name, ov.Tensor(array.view(np.int16), ov.Shape(array.shape), ov.Type.bf16)
            )
        else:
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))


@contextmanager
def _translated(kind: type[BadArtifact] | type[SessionFailed], doing: str) -> Iterator[None]:
    """Turn what OpenVINO raises into one line: its errors are a stack of places, and the reason
    stands last.
    """
    try:
        yield
    except MemoryError as exc:
        raise MissingRequirement(f"{doing}: out of memory", hint=_SMALLER) from exc
    except RuntimeError as exc:
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(exc).__name__
        if "bad_alloc" in reason:
            raise MissingRequirement(f"{doing}: out of memory", hint=_SMALLER) from exc
        raise kind(f"{doing}: {reason}") from exc
