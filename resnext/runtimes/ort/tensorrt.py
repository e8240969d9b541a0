"""ONNX Runtime over TensorRT: its own provider, and NVIDIA's plugin for TensorRT-RTX. Every node
runs there, or none.

An engine belongs to a range of batch sizes. Where the artifact has an upper limit, one engine
serves its whole range. Where it has none, `bind` builds one for the bound batch alone, and `run`
leaves the range to the provider, which builds anew for a batch outside of what it has seen.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import BatchRange
from resnext.errors import BadInput, MissingRequirement, SessionFailed, SilentFallback, first_line
from resnext.machine.cuda_driver import probe_driver
from resnext.network.layers import module_of
from resnext.precision import Precision
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Delivered, DeliveredLayer
from resnext.storage import cache_folder

from .cuda import CudaOrtSession
from .libraries import TENSORRT_PROVIDER, load_tensorrt10, plugin_device, tf32_is_off
from .session import session_options

#: What TensorRT's builder, weakly typed in this provider, must be allowed beyond float32;
#: TensorRT-RTX reads the graph.
PRECISION_OPTIONS: Mapping[Precision, Mapping[str, str]] = MappingProxyType(
    {
        "fp32": {},
        "fp16": {"trt_fp16_enable": "1"},
        "bf16": {"trt_bf16_enable": "1"},
        "int8": {"trt_int8_enable": "1"},
    }
)


def open_session(subject: Artifact, options: SessionOptions, name: str) -> TrtOrtSession:
    """Open ``ort-trt`` (TensorRT 10) or ``ort-trt-rtx`` (the plugin for TensorRT-RTX).

    Raises:
        MissingRequirement: no driver, no GPU that the library takes, or the library is not here.
        SilentFallback: a node would run outside TensorRT.
        SessionFailed: TensorRT refuses the network.
    """
    driver = probe_driver()
    if driver.problem is not None:
        raise MissingRequirement(
            f"backend {name!r} needs an NVIDIA GPU: {driver.problem}; "
            "on this machine use --backend ort-cpu, torch or torch-compile"
        )
    if name == "ort-trt-rtx":
        return RtxOrtSession(subject, options, name, *plugin_device(driver))
    return TrtOrtSession(subject, options, name, load_tensorrt10())


def engine_batches(batch: BatchRange, bound: int | None) -> BatchRange | None:
    """The batch sizes to build an engine for, or None where the provider is left to find out from
    what it is given.

    Args:
        batch: what the artifact takes.
        bound: the batch size that is bound, or None in a session for `run`.
    """
    if batch.max is not None:
        return batch
    return None if bound is None else BatchRange(min=bound, opt=bound, max=bound)


def profile_options(manifest: Manifest, batches: BatchRange | None, prefix: str) -> dict[str, str]:
    """The optimization profile, as ``trt_profile_min_shapes`` and so on; nothing where every
    dimension is fixed.
    """
    dynamic = [spec for spec in manifest.inputs if None in spec.shape]
    if batches is None or not dynamic:
        return {}
    shapes = {}
    for which, size in (("min", batches.min), ("opt", batches.opt), ("max", batches.max)):
        named = (
            f"{spec.name}:" + "x".join(str(size if d is None else d) for d in spec.shape)
            for spec in dynamic
        )
        shapes[f"{prefix}_profile_{which}_shapes"] = ",".join(named)
    return shapes


def assigned_nodes(session: Any) -> list[tuple[str, str, str]]:
    """Provider, operator and name of each node, as ONNX Runtime shared them out; empty before its
    release 1.24.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


class TrtOrtSession(CudaOrtSession):
    """ONNX Runtime's TensorRT provider, with no other provider behind it."""

    provider = TENSORRT_PROVIDER

    def __init__(
        self, artifact: Artifact, options: SessionOptions, name: str, library: str
    ) -> None:
        self._library = library
        self._batch: int | None = None
        super().__init__(artifact, options, name)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """As everywhere; outputs must be finite.

        Raises:
            SessionFailed: the runtime failed, or an output holds NaN or infinity.
        """
        return self._finite(super().run(inputs))

    def fetch(self) -> dict[str, NDArray[Any]]:
        """Copies of the outputs, on the host; they must be finite, as for `run`."""
        return self._finite(super().fetch())

    def check_inputs(self, inputs: Arrays) -> None:
        """As everywhere, and the batch must be one that the artifact takes."""
        super().check_inputs(inputs)
        allowed, batch = self._artifact.manifest.batch, next(iter(inputs.values())).shape[0]
        if batch not in allowed:
            raise BadInput(
                f"batch {batch} is not among the artifact's, {allowed}: export it with another"
                " --batch"
            )

    def delivered(self) -> Delivered:
        """Every node that ONNX Runtime gave to TensorRT, checked by a profiled run in which nothing
        else ran.

        Their element type is ``unknown``: TensorRT fuses them into kernels that ONNX Runtime does
        not see.

        Raises:
            SilentFallback: something ran outside TensorRT, or nothing is known to have run.
        """
        manifest = self._artifact.manifest
        batch = self._batch or manifest.batch.min
        with tempfile.TemporaryDirectory() as folder:
            native = session_options(self._options)
            native.enable_profiling = True
            native.profile_file_prefix = str(Path(folder) / "profile")
            session = self._load(native, self._providers(cuda_graph=False, batch=batch))
            shapes = {
                s.name: ([batch if d is None else d for d in s.shape], s.dtype) for s in self.inputs
            }
            try:
                session.run(
                    self._names,
                    {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()},
                )
                events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            except Exception as exc:
                raise SessionFailed(
                    f"{self.backend} failed in a profiled run: {first_line(exc)}"
                ) from exc
        ran = [
            event
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        ]
        elsewhere = [
            event["name"] for event in ran if event["args"].get("provider") != self.provider
        ]
        if elsewhere or not ran:
            raise SilentFallback(
                f"{self.backend}: {elsewhere[0] if elsewhere else 'no node at all'} ran outside"
                f" {self.provider} ({len(elsewhere)} of {len(ran)} nodes did); use --backend"
                " ort-cuda"
            )
        where = self.provider.removesuffix("ExecutionProvider")
        nodes = assigned_nodes(session) or [
            (where, event["args"].get("op_name", "unknown"), event["name"]) for event in ran
        ]
        modules = [module_of(node) if op in ("Conv", "Gemm") else None for _, op, node in nodes]
        layers = tuple(
            DeliveredLayer(node, op, "unknown", where, (module,) if module else ())
            for (_, op, node), module in zip(nodes, modules, strict=True)
        )
        notes = {
            "providers": ", ".join(session.get_providers()),
            "subgraphs in TensorRT": str(len(ran)),
            "TensorRT": self._library,
            "precision": self._precision_note(manifest.precision),
            "cuda graph": (
                "asked for; the provider does not say whether it captured one"
                if self.enqueue_boundary == "graph"
                else "off"
            ),
        }
        return Delivered(self.device, layers, notes)

    def _precision_note(self, precision: Precision) -> str:
        unseen = "ONNX Runtime does not see what a layer inside TensorRT computes in"
        if precision != "fp32":
            return (
                f"{unseen}; weakly typed, {precision} allowed everywhere, also where the graph says"
                " float32"
            )
        if tf32_is_off():
            return f"{unseen}; TF32 off by NVIDIA_TF32_OVERRIDE=0"
        return (
            f"{unseen}; float32 may be rounded to TF32, which the provider has no option against: "
            "set NVIDIA_TF32_OVERRIDE=0 before the process starts"
        )

    def _finite(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise SessionFailed(
                    f"{self.backend}: output {name!r} holds NaN or infinity; the likely cause is"
                    " overflow in fp16: use an fp32 artifact, or see whether the input itself is"
                    " finite"
                )
        return outputs

    def _session_for(self, batch: int) -> Any:
        self._batch = batch
        if self._artifact.manifest.batch.max is not None and not self._options.cuda_graph:
            return None  # the engine for `run` covers it
        providers = self._providers(cuda_graph=self._options.cuda_graph, batch=batch)
        return self._load(session_options(self._options), providers)

    def _providers(self, *, cuda_graph: bool, batch: int | None = None) -> list[Any]:
        batches = engine_batches(self._artifact.manifest.batch, batch)
        settings = self._settings(self._folder(batches), batches, cuda_graph)
        if (stream := self._torch_stream()) is not None:
            settings |= {
                "has_user_compute_stream": "1",
                "user_compute_stream": str(stream.cuda_stream),
            }
        return [(self.provider, settings)]

    def _settings(
        self, folder: Path, batches: BatchRange | None, cuda_graph: bool
    ) -> dict[str, str]:
        manifest = self._artifact.manifest
        settings = {
            "device_id": "0",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
        }
        settings |= PRECISION_OPTIONS[manifest.precision]
        if cuda_graph:
            settings["trt_cuda_graph_enable"] = "1"
        return settings | profile_options(manifest, batches, "trt")

    def _folder(self, batches: BatchRange | None) -> Path:
        """A cache folder for this engine alone.

        The providers name an engine by its graph: other weights, another range or no TF32 would get
            the wrong one
        (onnxruntime#6455, #32254, #26029).
        """
        exact = "-no-tf32" if tf32_is_off() else ""
        built = f"{self._library}-ort{ort.__version__}-batch-{batches or 'any'}{exact}"
        folder = cache_folder() / self.backend / self._artifact.manifest.file_sha256[:24] / built
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MissingRequirement(
                f"cannot use the cache folder {folder}: {exc.strerror or exc}; set"
                " RESNEXT_CACHE_DIR to one that can be"
            ) from exc
        return folder

    def _load(self, native: ort.SessionOptions, providers: list[Any]) -> Any:
        ((provider, settings),) = providers
        native.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        native.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = self._open(native, settings)
        except Exception as exc:
            text = first_line(exc)
            if "fallback" in text.lower():
                raise SilentFallback(
                    f"{self.backend}: {provider} does not take every node of"
                    f" {self._artifact.path.name} ({text}); use --backend ort-cuda"
                ) from exc
            if "install TensorRT" in text:
                raise MissingRequirement(
                    f"{self.backend}: {provider} does not load: {text}"
                ) from exc
            raise SessionFailed(
                f"{self.backend}: no engine of {self._artifact.path}: {text}; if an earlier run was"
                f" cut off, empty {cache_folder() / self.backend}"
            ) from exc
        given = session.get_providers()[0]
        elsewhere = [
            f"{op} {node}" for owner, op, node in assigned_nodes(session) if owner != provider
        ]
        if given != provider or elsewhere:
            raise SilentFallback(
                f"{self.backend}: ONNX Runtime gave {elsewhere[0] if elsewhere else 'everything'}"
                f" to another provider than {provider} (first is {given}); use --backend ort-cuda"
            )
        return session

    def _open(self, native: ort.SessionOptions, settings: dict[str, str]) -> Any:
        providers = [(self.provider, settings)]
        return ort.InferenceSession(
            str(self._artifact.path), native, providers=providers, enable_fallback=0
        )


class RtxOrtSession(TrtOrtSession):
    """NVIDIA's plugin for TensorRT-RTX: strongly typed, and what is cached are kernels compiled for
    this GPU.
    """

    provider = "NvTensorRTRTXExecutionProvider"

    def __init__(
        self, artifact: Artifact, options: SessionOptions, name: str, library: str, device: Any
    ) -> None:
        self._listed = device
        super().__init__(artifact, options, name, library)

    def _precision_note(self, precision: Precision) -> str:
        if precision != "fp32":
            return (
                "as the graph is typed; ONNX Runtime does not see what a layer inside TensorRT-RTX"
                " computes in"
            )
        return super()._precision_note(precision)

    def _settings(
        self, folder: Path, batches: BatchRange | None, cuda_graph: bool
    ) -> dict[str, str]:
        settings = {
            "nv_runtime_cache_path": str(folder),
            "enable_cuda_graph": "1" if cuda_graph else "0",
        }
        return settings | profile_options(self._artifact.manifest, batches, "nv")

    def _open(self, native: ort.SessionOptions, settings: dict[str, str]) -> Any:
        native.add_provider_for_devices([self._listed], settings)
        return ort.InferenceSession(str(self._artifact.path), native, enable_fallback=0)
