"""A session of a TensorRT or TensorRT-RTX engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_tensors, refuse_different
from resnext.artifact.records import EngineLayer
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, SessionFailed
from resnext.runtimes.buffers import DeviceMemory
from resnext.runtimes.delivered import delivered_from_engine
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Delivered, LayerTime, Session
from resnext.runtimes.tensor_session import Translated
from resnext.storage import cache_folder

from .execution import Execution, TrtBound
from .identity import NAMED_FACTS, engine_name
from .kernel_cache import KernelCache
from .layers import layers_from_inspector
from .library import Library
from .log import captured
from .profiler import Reports, attach, layer_times

#: Names of element types, by the library's. Its ``nptype`` fails for bfloat16, which NumPy lacks.
DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "FLOAT": "float32",
        "HALF": "float16",
        "BF16": "bfloat16",
        "UINT8": "uint8",
        "INT8": "int8",
        "INT32": "int32",
        "INT64": "int64",
        "BOOL": "bool",
    }
)


class TrtSession(Session):
    """An engine on device buffers. `run` launches kernel by kernel; `Bound.enqueue` replays a CUDA
    graph.

    Each batch size has one context, one set of buffers and one graph. They live until `close`, so
    returning to a batch size costs nothing.

    Args:
        artifact: the engine.
        options: whether to use CUDA graphs.
        name: the backend's.
        library: the library.
        trt: its module.
        memory: where tensors live.

    Raises:
        SessionFailed: the library cannot load the engine.
        BadArtifact: the engine does not agree with its manifest.
    """

    def __init__(
        self,
        artifact: Artifact,
        options: SessionOptions,
        name: str,
        library: Library,
        trt: Any,
        memory: DeviceMemory,
    ) -> None:
        record = artifact.manifest.engine
        assert record is not None
        super().__init__(name, artifact.manifest.batch_ranges)
        if artifact.manifest.quantized:
            self._hides_nan = "quantization"
        self._artifact, self._options, self._memory = artifact, options, memory
        self._library, self._trt = library, trt
        self._profiles = record.options.profiles
        self._kernels = KernelCache(_kernel_file(artifact, memory.device, library))
        with captured(trt) as (logger, log):
            self._runtime = library.runtime(trt, logger, record.options)
            self._engine = self._runtime.deserialize_cuda_engine(artifact.read())
            if self._engine is None:
                raise SessionFailed(f"{library.title} cannot load {artifact.path}: {log.reason()}")
        self.inputs, self.outputs = _specs(trt, self._engine, self._profiles)
        self._check_manifest()
        self._executions: dict[int, Execution] = {}
        self._last_bound: Execution | None = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Copy in, launch, copy out, and check that the outputs are finite.

        Raises:
            BadInput: as `Session.run`.
            SessionFailed: the launch failed, or an output is NaN or infinite.
        """
        self.check_inputs(inputs)
        batch = next(iter(inputs.values())).shape[0]
        with Translated(self.backend):
            execution = self._executions.get(batch) or self._prepare(batch)
            execution.load(inputs)
            execution.launch_logged()
            outputs = self._fetched(execution)
        self._remember(batch, execution)
        return self._finite(outputs)

    def _bind(self, inputs: Arrays) -> TrtBound:
        """Run once without a graph, then capture a CUDA graph if the options request one.

        TensorRT-RTX compiles its kernels here. If a graph cannot be captured, `Bound.enqueue`
        launches kernel by kernel, and `Bound.boundary` and `delivered` say so.
        """
        batch = next(iter(inputs.values())).shape[0]
        with Translated(self.backend):
            execution = self._executions.get(batch) or self._prepare(batch)
            execution.load(inputs)
            execution.launch_logged()
            self._memory.synchronize()
            if self._options.cuda_graph and not execution.tried:
                execution.capture()
            self._remember(batch, execution)
            self._last_bound = execution
            execution.spoil(tuple(spec.name for spec in self.outputs))
            copies = {name: np.array(array, order="C") for name, array in inputs.items()}
            bound = TrtBound(self.backend, execution, copies, self._read)
            bound.enqueue()
        bound.fetch()
        return bound

    def _remember(self, batch: int, execution: Execution) -> None:
        """Store an execution that has run, and the kernels that it compiled."""
        if batch not in self._executions:
            self._executions[batch] = execution
            self._kernels.write()

    def _read(self, execution: Execution) -> dict[str, NDArray[Any]]:
        with Translated(self.backend):
            outputs = self._fetched(execution)
        return self._finite(outputs)

    def _fetched(self, execution: Execution) -> dict[str, NDArray[Any]]:
        return {
            spec.name: self._memory.fetch(execution.buffers[spec.name]) for spec in self.outputs
        }

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object] = lambda: None
    ) -> tuple[LayerTime, ...]:
        """From TensorRT's profiler, in a separate context, launched kernel by kernel."""
        self.check_inputs(inputs)
        with Translated(self.backend):
            execution = self._prepare(next(iter(inputs.values())).shape[0])
            execution.load(inputs)
            self._memory.synchronize()
        reports: Reports = []
        attach(self._trt, execution.context, reports)
        timed = []
        for index in range(runs + 1):
            if index:
                before_each()
            with Translated(self.backend):
                execution.launch_logged()
                self._memory.synchronize()
            timed.append(reports.copy())
            reports.clear()
        layers = self._layers(execution)
        return layer_times(timed[1:], layers, self._memory.device)

    def _layers(self, execution: Execution | None) -> tuple[EngineLayer, ...]:
        """The layers as the engine's inspector reports them, for the shapes of ``execution``."""
        inspector = self._engine.create_engine_inspector()
        if execution is not None:
            inspector.execution_context = execution.context
        return layers_from_inspector(
            inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        )

    def delivered(self) -> Delivered:
        """Each layer, as the engine's inspector reports it."""
        layers = self._layers(self._last_bound)
        last = self._last_bound
        graph = (
            "nothing bound" if last is None else "on" if last.replay else f"off: {last.why_plain}"
        )
        notes = {
            "library": f"{self._library.title} {self._library.version}",
            "profiles": ", ".join(map(str, self._profiles)),
            "cuda graph": graph,
            **self._kernels.notes(),
        }
        return replace(delivered_from_engine(layers, self._memory.device), notes=notes)

    def close(self) -> None:
        """Wait for running work, then release graphs, contexts, buffers and engine, in that
        order.
        """
        super().close()
        # A GPU that has failed fails again here, and then no work is running on it.
        with contextlib.suppress(RuntimeError):
            self._memory.synchronize()
        self._last_bound = None
        for batch in self._executions:  # no variable may keep a context longer than the engine
            self._executions[batch].replay = None
        self._executions = {}
        self._kernels.drop()
        self._engine = self._runtime = None

    def _prepare(self, batch: int) -> Execution:
        """A context with the best profile for ``batch``, and buffers of exactly its size."""
        index = self._profile(batch)
        with captured(self._trt) as (_, log), self._memory.current():
            context, kernels = self._library.context(self._engine, self._kernels.read())
            if context is None:
                raise SessionFailed(
                    f"{self._library.title} cannot make a context for batch {batch}: {log.reason()}"
                )
            self._kernels.add(kernels)
            selected = index == 0  # the default of a new context
            with contextlib.suppress(RuntimeError):  # other calls return False instead
                selected = selected or context.set_optimization_profile_async(
                    index, self._memory.stream
                )
            if not selected:
                raise SessionFailed(
                    f"{self._library.title} refuses profile {index}: {log.reason()}"
                )
            self._memory.synchronize()
            buffers = {}
            for spec in (*self.inputs, *self.outputs):
                shape = tuple(batch if size is None else size for size in spec.shape)
                buffers[spec.name] = self._memory.empty(shape, spec.dtype)
                if spec in self.inputs and not context.set_input_shape(spec.name, shape):
                    raise SessionFailed(
                        f"{self._library.title} refuses input shape {shape}: {log.reason()}"
                    )
                if not context.set_tensor_address(spec.name, buffers[spec.name].data_ptr()):
                    raise SessionFailed(
                        f"{self._library.title} refuses the buffer of {spec.name}: {log.reason()}"
                    )
            for spec in self.outputs:  # the manifest's shapes against the engine's
                shape = tuple(context.get_tensor_shape(spec.name))
                if shape != tuple(buffers[spec.name].shape):
                    raise SessionFailed(f"output {spec.name!r} has shape {shape} at batch {batch}")
            execution = Execution(self._library, self._trt, self._memory, context, buffers)
            size_bytes = self._library.scratch_bytes(self._engine, context)
            if size_bytes > 0:
                execution.scratch = self._memory.empty((size_bytes,), "uint8")
                context.set_device_memory(execution.scratch.data_ptr(), size_bytes)
        return execution

    def _profile(self, batch: int) -> int:
        """The profile that covers ``batch`` and was tuned nearest to it."""
        covering = [index for index, profile in enumerate(self._profiles) if batch in profile]
        return min(covering, key=lambda index: (abs(self._profiles[index].opt - batch), index))

    def _finite(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise SessionFailed(
                    f"{self.backend}: output {name!r} holds NaN or infinity"
                    f" ({self._artifact.manifest.precision} overflow?)",
                    hint="compare with `precision` fp32",
                )
        return outputs

    def _check_manifest(self) -> None:
        """Compare the manifest with the engine; only the engine's bytes are under a digest.

        Raises:
            BadArtifact: they differ; names the fields.
        """
        manifest = self._artifact.manifest
        record = manifest.engine
        assert record is not None
        actual = _batch_ranges(self._engine, self.inputs[0].name)
        expected = [(profile.min, profile.opt, profile.max) for profile in self._profiles]
        different = different_tensors(manifest, self.inputs, self.outputs)
        different += [] if actual == expected else ["optimization profiles"]
        options = record.options
        if self._engine.name != engine_name(
            manifest, refittable=options.strip_weights, tf32=options.tf32
        ):
            different.append(NAMED_FACTS)
        refuse_different(self._artifact, different)


def _specs(
    trt: Any, engine: Any, profiles: tuple[Any, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The engine's inputs and outputs.

    Raises:
        BadArtifact: one has an element type that sessions do not support (float8, int4, ...).
    """
    specs: dict[Any, list[TensorSpec]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
    one_size = len(profiles) == 1 and profiles[0].static
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise BadArtifact(
                f"the engine's tensor {name!r} is of type {kind}, which no session takes",
                hint=f"build it with inputs and outputs of one of {', '.join(DTYPES.values())}",
            )
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        if one_size and shape[:1] == (None,):  # symbolic, but the profile allows a single size
            shape = (profiles[0].min, *shape[1:])
        specs[engine.get_tensor_mode(name)].append(
            TensorSpec(name=name, dtype=DTYPES[kind], shape=shape)
        )
    inputs, outputs = specs.values()
    return tuple(inputs), tuple(outputs)


def _batch_ranges(engine: Any, name: str) -> list[tuple[int, ...]]:
    """Minimum, optimum and maximum batch of each profile.

    An engine with a fixed batch size need not have profile shapes: the library may fail, or return
    shapes without dimensions. Then all three are the input's own batch size.
    """
    batch = int(engine.get_tensor_shape(name)[0])
    if batch >= 0:
        return [(batch, batch, batch)]
    indices = range(engine.num_optimization_profiles)
    return [
        tuple(int(shape[0]) for shape in engine.get_tensor_profile_shape(name, index))
        for index in indices
    ]


def _kernel_file(artifact: Artifact, device: str, library: Library) -> Path | None:
    """The file that caches TensorRT-RTX's compiled kernels, one per engine, GPU and version; None
    for TensorRT.
    """
    if library.kind != "trt-rtx":
        return None
    gpu = "".join(letter if letter.isalnum() else "-" for letter in device)
    return (
        cache_folder()
        / "trt-rtx-kernels"
        / f"{artifact.manifest.file_sha256[:24]}-{library.version}-{gpu}.bin"
    )
