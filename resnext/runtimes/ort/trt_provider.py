"""ONNX Runtime with TensorRT: its built-in provider, and NVIDIA's plugin for TensorRT-RTX. Either
all nodes run there, or opening fails.

An engine supports a range of batch sizes. If the artifact has an upper limit, one engine supports
its whole range. If not, `bind` builds one for the bound batch size only, and `run` leaves the range
to the provider, which builds again for a batch size outside the range so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_bytes
from resnext.artifact.specs import BatchRange, TensorSpec
from resnext.errors import MissingRequirement, SessionFailed, SilentFallback, first_line
from resnext.machine.faults import environment_fault
from resnext.network.layers import module_of
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Boundary, Delivered, DeliveredLayer
from resnext.storage import cache_folder, locked

from . import device_bound, engine_cache
from .libraries import tf32_is_off
from .products import Product
from .profile import profiled_run
from .provider import Provider, session_options


def engine_batches(batch: BatchRange, bound: int | None) -> BatchRange | None:
    """The batch sizes to build an engine for, or None to leave them to the provider.

    Args:
        batch: batch sizes of the artifact.
        bound: the bound batch size, or None in a session for `run`.
    """
    if batch.max is not None:
        return batch
    return None if bound is None else BatchRange(min=bound, opt=bound, max=bound)


def assigned_nodes(session: Any) -> list[tuple[str, str, str]]:
    """Provider, operator and name of each node, as ONNX Runtime assigned them; empty before release
    1.24.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


class TensorrtProvider(Provider):
    """TensorRT, with no other provider to fall back to.

    Args:
        artifact: the ONNX file.
        options: whether to use CUDA graphs.
        backend: name of the runtime, for messages.
        product: TensorRT 10 or the plugin for TensorRT-RTX.
    """

    device = "cuda"

    def __init__(
        self, artifact: Artifact, options: SessionOptions, backend: str, product: Product
    ) -> None:
        super().__init__(artifact, options, backend)
        self.name, self._product = product.provider, product
        self._stream = device_bound.torch_stream()
        self._batch: int | None = None
        self._folders: set[Path] = set()
        self._boundary: Boundary = "device"

    def open(self) -> Any:
        """A session without a graph; its engine supports the artifact's whole batch range if that
        has an upper limit.
        """
        return self._load(session_options(self.options))

    def bind(
        self, native: Any, inputs: Arrays, outputs: tuple[TensorSpec, ...]
    ) -> device_bound.DeviceBound:
        """Device buffers, and an engine for the batch unless ``native`` supports it.

        The first runs capture the graph.
        """
        self._batch = batch = next(iter(inputs.values())).shape[0]
        graph = self.options.cuda_graph
        if graph or self.artifact.manifest.batch.max is None:
            native = self._load(session_options(self.options), batch=batch, cuda_graph=graph)
        self._boundary = "graph" if graph else "device"
        return device_bound.DeviceBound(
            self.backend,
            native,
            inputs,
            outputs,
            boundary=self._boundary,
            stream=self._stream,
            checked=self.checked,
        )

    def checked(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """``outputs``, after a check that they are finite."""
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise SessionFailed(
                    f"{self.backend}: output {name!r} holds NaN or infinity; the likely cause is"
                    " overflow in fp16",
                    hint="use an fp32 artifact, or see whether the input itself is finite",
                )
        return outputs

    def delivered(self, inputs: tuple[TensorSpec, ...]) -> Delivered:
        """All nodes, after a check with a profiled run that nothing ran outside TensorRT.

        Their element type is ``unknown``: TensorRT fuses them into kernels that ONNX Runtime does
        not see.

        Raises:
            SilentFallback: a node ran outside TensorRT, or the profile is empty.
        """
        manifest = self.artifact.manifest
        batch = self._batch or manifest.batch.min
        session, events = profiled_run(
            session_options(self.options),
            lambda native: self._load(native, batch=batch),
            inputs,
            batch=batch,
            backend=self.backend,
        )
        elsewhere = [
            event["name"] for event in events if event["args"].get("provider") != self.name
        ]
        if elsewhere or not events:
            raise SilentFallback(
                f"{self.backend}: {elsewhere[0] if elsewhere else 'no node at all'} ran outside"
                f" {self.name} ({len(elsewhere)} of {len(events)} nodes did)",
                hint="use `backend` ort-cuda",
            )
        short = self.name.removesuffix("ExecutionProvider")
        nodes = assigned_nodes(session) or [
            (short, event["args"].get("op_name", "unknown"), event["name"]) for event in events
        ]
        modules = [module_of(node) if op in ("Conv", "Gemm") else None for _, op, node in nodes]
        layers = tuple(
            DeliveredLayer(node, op, "unknown", short, (module,) if module else ())
            for (_, op, node), module in zip(nodes, modules, strict=True)
        )
        notes = {
            "providers": ", ".join(session.get_providers()),
            "subgraphs in TensorRT": str(len(events)),
            "TensorRT": self._product.library,
            "precision": self._product.precision_note(manifest.precision),
            "cuda graph": (
                "requested; the provider does not say whether it captured one"
                if self._boundary == "graph"
                else "off"
            ),
        }
        return Delivered(self.device, layers, notes)

    def closed(self) -> None:
        """TensorRT-RTX's plugin writes its kernels when a session ends."""
        for folder in self._folders:
            with locked(folder / engine_cache.LOCK_NAME):
                engine_cache.record(folder)

    def _load(
        self, native: ort.SessionOptions, *, batch: int | None = None, cuda_graph: bool = False
    ) -> Any:
        batches = engine_batches(self.artifact.manifest.batch, batch)
        folder = self._folder(batches)
        self._folders.add(folder)
        settings = self._product.settings(self.artifact.manifest, folder, batches, cuda_graph)
        if self._stream is not None:
            settings |= {
                "has_user_compute_stream": "1",
                "user_compute_stream": str(self._stream.cuda_stream),
            }
        native.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        native.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        model = onnx_bytes(self.artifact)
        try:
            with locked(folder / engine_cache.LOCK_NAME):
                engine_cache.remove_unrecorded(folder)
                session = self._product.create(native, model, settings)
                engine_cache.record(folder)
        except MissingRequirement:
            raise
        except Exception as exc:
            text = first_line(exc)
            if "fallback" in text.lower():
                raise SilentFallback(
                    f"{self.backend}: {self.name} does not take every node of"
                    f" {self.artifact.path.name} ({text})",
                    hint="use `backend` ort-cuda",
                ) from exc
            if "install TensorRT" in text:
                raise MissingRequirement(
                    f"{self.backend}: {self.name} does not load: {text}"
                ) from exc
            raise environment_fault(exc) or SessionFailed(
                f"{self.backend}: no engine of {self.artifact.path}: {text}"
            ) from exc
        first = session.get_providers()[0]
        elsewhere = [
            f"{op} {node}" for owner, op, node in assigned_nodes(session) if owner != self.name
        ]
        if first != self.name or elsewhere:
            raise SilentFallback(
                f"{self.backend}: ONNX Runtime gave {elsewhere[0] if elsewhere else 'everything'}"
                f" to another provider than {self.name} (first is {first})",
                hint="use `backend` ort-cuda",
            )
        return session

    def _folder(self, batches: BatchRange | None) -> Path:
        """A cache folder for this engine only.

        The providers name engines by graph, so another engine's file would be used for other
        weights, another batch range or without TF32 (onnxruntime#6455, #32254, #26029).
        """
        exact = "-no-tf32" if tf32_is_off() else ""
        name = f"{self._product.library}-ort{ort.__version__}-batch-{batches or 'any'}{exact}"
        folder = cache_folder() / self.backend / self.artifact.manifest.file_sha256[:24] / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MissingRequirement(
                f"cannot use the cache folder {folder}: {exc.strerror or exc}",
                hint="set RESNEXT_CACHE_DIR to a usable folder",
            ) from exc
        return folder
