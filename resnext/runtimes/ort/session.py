"""ONNX Runtime, CPU or CUDA provider. What the runtime did not really use is an error, not a
note.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_facts, different_tensors, refuse_different
from resnext.artifact.specs import TensorSpec
from resnext.errors import (
    BadArtifact,
    MissingRequirement,
    SessionFailed,
    SilentFallback,
    UsageError,
    first_line,
)
from resnext.machine.cuda_driver import probe_driver
from resnext.network.layers import module_of
from resnext.runtimes.registry import BACKENDS, SessionOptions, check_precision
from resnext.runtimes.session import Arrays, Delivered, DeliveredLayer, Session

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
#: Fused and quantized operators that ONNX Runtime makes of a convolution or a matrix product.
_HEAVY = {
    "Conv": "Conv",
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "QLinearConv": "Conv",
    "Gemm": "Gemm",
    "FusedGemm": "Gemm",
    "QGemm": "Gemm",
}
#: What ONNX Runtime adds to names: the blocked layout of its CPU kernels, casts of fp16, a number
#: to keep names apart.
_ADDED = re.compile(r"^InsertedPrecisionFreeCast_|(?:_nchwc)?(?:_token_\d+)?$")


def open_session(subject: Artifact, options: SessionOptions, name: str) -> OrtSession:
    """Open ``ort-cpu``, ``ort-cuda``, or for ``ort`` the best of the two that works here.

    Raises:
        MissingRequirement: this build of ONNX Runtime, or this machine, has no CUDA.
        SilentFallback: ONNX Runtime left the provider out.
        UsageError: the provider that was meant has no convolutions of the artifact's precision.
    """
    device, precision = (
        {"ort-cpu": "cpu", "ort-cuda": "cuda"}.get(name, options.device),
        subject.manifest.precision,
    )
    if device == "auto":
        device = "cuda" if precision in BACKENDS["ort-cuda"].precisions and cuda_works() else "cpu"
    check_precision(f"ort-{device}", precision)
    if device == "cpu":
        return OrtSession(subject, options, name)
    if reason := cuda_obstacle():
        raise MissingRequirement(reason)
    from .cuda import CudaOrtSession

    return CudaOrtSession(subject, options, name)


def cuda_obstacle() -> str | None:
    """Why this ONNX Runtime cannot use the machine's CUDA device, with what to do; None if it
    can.
    """
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return (
            f"this onnxruntime ({ort.__version__}) has no CUDA provider: pip uninstall onnxruntime,"
            " pip install onnxruntime-gpu"
        )
    if not cuda_works():
        return (
            f"onnxruntime {ort.__version__} cannot use CUDA here: it needs cuBLAS and cuDNN of the"
            " CUDA version that it was built for; pip install 'onnxruntime-gpu[cuda,cudnn]', or a"
            " torch build of that CUDA version"
        )
    return None


@functools.lru_cache(maxsize=1)
def cuda_works() -> bool:
    """Whether ONNX Runtime can use CUDA here, asked of ONNX Runtime itself: one small convolution
    on the device.

    That needs this build, the driver, and cuBLAS and cuDNN of the right versions, which PyTorch's
    CUDA wheels bring.
    """
    if PROVIDERS["cuda"] not in ort.get_available_providers() or probe_driver().problem is not None:
        return False
    preload_libraries()
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            _small_convolution(), quiet, providers=[PROVIDERS["cuda"]], enable_fallback=0
        )
        if session.get_providers()[0] != PROVIDERS["cuda"]:
            return False
        session.run(None, {"x": np.zeros((1, 1, 3, 3), np.float32)})
    except Exception:  # onnxruntime's errors have no common base of their own
        return False
    return True


def preload_libraries() -> None:
    """Load the CUDA libraries that PyTorch's wheels bring; what onnxruntime prints of it goes to
    stderr.
    """
    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()


def _small_convolution() -> bytes:
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 3, 3), [1.0] * 9)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 3, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1, 1, 1))],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def session_options(options: SessionOptions) -> ort.SessionOptions:
    """ONNX Runtime's options for ``options``: all graph optimisations, warnings off, errors on."""
    native = ort.SessionOptions()
    native.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    native.log_severity_level = 3
    native.intra_op_num_threads = options.threads or 0
    return native


class OrtSession(Session):
    """An ONNX file on ONNX Runtime's CPU provider; `CudaOrtSession` is the same on CUDA."""

    device = "cpu"

    def __init__(self, artifact: Artifact, options: SessionOptions, name: str) -> None:
        self.backend = name
        self._artifact = artifact
        self._options = options
        self._native = self._create(session_options(options))
        self.inputs = tuple(_spec(value) for value in self._native.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._native.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._check_manifest()
        self._bound: dict[str, NDArray[Any]] = {}
        self._results: list[NDArray[Any]] = []

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """One call of ONNX Runtime's own run."""
        try:
            results = self._native.run(self._names, inputs)
        except Exception as exc:
            self.check_inputs(inputs)  # the clearer message, where the input is at fault
            raise SessionFailed(f"{self.backend} failed: {first_line(exc)}") from exc
        return dict(zip(self._names, results, strict=True))

    def bind(self, inputs: Arrays) -> None:
        """Keep copies of ``inputs`` and run once."""
        self.check_inputs(inputs)
        self._bound = {name: np.ascontiguousarray(array).copy() for name, array in inputs.items()}
        self._results = list(self.run(self._bound).values())

    def enqueue(self) -> None:
        """Run over the bound input; finished when it returns."""
        self._results = self._native.run(self._names, self._bound)

    def synchronize(self) -> None:
        """A CPU has nothing pending."""

    def fetch(self) -> dict[str, NDArray[Any]]:
        """Copies of the last outputs."""
        if not self._results:
            raise SessionFailed("nothing is bound; call bind() first")
        return {name: array.copy() for name, array in zip(self._names, self._results, strict=True)}

    def delivered(self) -> Delivered:
        """Every node of the optimised graph with its provider and element type, from one profiled
        run.
        """
        layers = []
        makers = self._modules_by_output()
        with tempfile.TemporaryDirectory() as folder:
            native = session_options(self._options)
            native.enable_profiling = True
            native.profile_file_prefix = str(Path(folder) / "profile")
            session = self._create(native)
            shapes = {
                s.name: ([1 if d is None else d for d in s.shape], s.dtype) for s in self.inputs
            }
            session.run(
                self._names,
                {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()},
            )
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        for event in events:
            details = event.get("args", {})
            if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
                op = str(details.get("op_name"))
                inputs = details.get("input_type_shape") or [{}]
                dtype = {"float": "float32", "double": "float64"}.get(
                    t := next(iter(inputs[0]), "unknown"), t
                )
                provider = str(details.get("provider", "unknown")).removesuffix("ExecutionProvider")
                name = str(event["name"]).removesuffix("_kernel_time")
                bare = _ADDED.sub("", name)
                module = (module_of(bare) or makers.get(bare)) if op in _HEAVY else None
                modules = (module,) if module else ()
                layers.append(DeliveredLayer(name, _HEAVY.get(op, op), dtype, provider, modules))
        notes = {"providers": ", ".join(self._native.get_providers())}
        if self.device == "cpu":
            notes["threads"] = str(self._options.threads or "one for each physical core")
        return Delivered(self.device, tuple(layers), notes)

    def _modules_by_output(self) -> dict[str, str]:
        """The module of each tensor that a convolution gives, also after its ReLU: some kernels are
        named after it.
        """
        import onnx

        found: dict[str, str] = {}
        for node in onnx.load(self._artifact.path, load_external_data=False).graph.node:
            module = module_of(node.name) if node.op_type in _HEAVY else None
            if node.op_type == "Relu":
                module = found.get(node.input[0])
            if module:
                found[node.output[0]] = module
        return found

    def close(self) -> None:
        """Drop the session and its buffers."""
        self._native = None
        self._bound, self._results = {}, []

    def _check_manifest(self) -> None:
        """The manifest must say what the file says; only the file's bytes are under a digest.

        Raises:
            BadArtifact: names what differs.
        """
        manifest = self._artifact.manifest
        noted = self._native.get_modelmeta().custom_metadata_map
        different = different_facts(manifest, noted.get)
        different += different_tensors(manifest, self.inputs, self.outputs)
        refuse_different(self._artifact, different)

    def _create(self, native: ort.SessionOptions) -> Any:
        return self._load(native, [PROVIDERS["cpu"]])

    def _load(self, native: ort.SessionOptions, providers: list[Any]) -> Any:
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        try:
            session = ort.InferenceSession(
                str(self._artifact.path), native, providers=providers, enable_fallback=0
            )
        except Exception as exc:
            text = first_line(exc)
            if "fallback" in text.lower():
                raise SilentFallback(
                    f"{self.backend}: {wanted} does not take every node of"
                    f" {self._artifact.path.name} ({text})"
                ) from exc
            raise BadArtifact(f"ONNX Runtime cannot load {self._artifact.path}: {text}") from exc
        if session.get_providers()[0] != wanted:
            raise SilentFallback(
                f"ONNX Runtime fell back from {wanted} to {session.get_providers()[0]}: its CUDA"
                " libraries (cuBLAS, cuDNN of the version it was built for) are not found; pip"
                " install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        return session


def _spec(value: Any) -> TensorSpec:
    if (
        value.type not in _DTYPES
    ):  # bfloat16, for one: an OrtValue of it cannot be made of an array, nor shown as one
        raise UsageError(
            f"{value.name!r} is a {value.type}, which ONNX Runtime neither takes as an array nor"
            " gives as one; export the artifact without --io native"
        )
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(name=value.name, dtype=_DTYPES[value.type], shape=shape)


# Where it was imported before this toolkit could say so (`resnext`), it stops here.
ort.disable_telemetry_events()
