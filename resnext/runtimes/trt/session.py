"""TensorRT and TensorRT-RTX engines. Passport and driver are asked first, and nothing falls back
unseen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_tensors, refuse_different
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, BadInput, SessionFailed, UsageError, first_line
from resnext.runtimes.buffers import CudaMemory, DeviceMemory, Replay
from resnext.runtimes.compatibility import refuse_if_not_loadable, this_machine
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Boundary, Delivered, Session
from resnext.runtimes.tensor_session import Translated
from resnext.storage import cache_folder
from resnext.verify.delivered import delivered_from_engine

from .identity import NAMED_FACTS, engine_name
from .kernel_cache import KernelCache
from .layers import layers_from_inspector
from .library import Flavour, driver_or_refuse, flavour_of
from .log import Log, captured

#: Names of element types, by the library's. Its own ``nptype`` raises for bfloat16, which NumPy
#: lacks.
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


def open_session(subject: Artifact, options: SessionOptions, name: str) -> TrtSession:
    """Open an engine.

    Raises:
        UsageError: the artifact is no engine, or not of the library that was asked for by name.
        MissingRequirement: no GPU, driver or library, or not those that the engine was built for;
            says what to do.
        BadArtifact: the engine and its manifest do not agree.
        SessionFailed: the library cannot load it.
    """
    manifest = subject.manifest
    if manifest.engine is None or (name == "trt-rtx" and manifest.kind != name):
        raise UsageError(
            f"backend {name!r} runs an engine, and {subject.directory} is of kind {manifest.kind}; "
            f"build one: resnext-export --format {name} --onnx {subject.directory}"
        )
    flavour = flavour_of(manifest.engine.library)
    driver_or_refuse(flavour)
    refuse_if_not_loadable(manifest, this_machine(flavour))
    return TrtSession(subject, options, name, flavour, flavour.load(), CudaMemory())


@dataclass
class _Bound:
    """One batch size: a context with its profile set, its buffers, and a captured graph where there
    is one.

    ``scratch`` is memory that the context works in, where the library wants to be given it.
    """

    context: Any
    buffers: dict[str, torch.Tensor]
    scratch: torch.Tensor | None = None
    replay: Replay | None = None
    why_plain: str = "not asked for"


class TrtSession(Session):
    """An engine on device buffers. `run` launches kernel by kernel; `enqueue` replays a CUDA graph
    of the bound batch.

    Each batch size has a context, buffers and a graph of its own, kept until `close`, so that going
    back to one costs nothing.

    Args:
        artifact: the engine.
        options: CUDA graphs or not.
        name: the backend's.
        flavour: the library, and its module ``trt``.
        memory: where tensors live.
    """

    def __init__(
        self,
        artifact: Artifact,
        options: SessionOptions,
        name: str,
        flavour: Flavour,
        trt: Any,
        memory: DeviceMemory,
    ) -> None:
        record = artifact.manifest.engine
        assert record is not None
        self.backend = name
        self._artifact, self._options, self._flavour, self._trt, self._memory = (
            artifact,
            options,
            flavour,
            trt,
            memory,
        )
        self._profiles = record.options.profiles
        self._kernels = KernelCache(_kernel_file(artifact, memory.device, flavour))
        with captured(trt) as (logger, log):
            self._runtime = flavour.runtime(trt, logger, record.options)
            self._engine = self._runtime.deserialize_cuda_engine(artifact.path.read_bytes())
            if self._engine is None:
                raise SessionFailed(f"{flavour.title} cannot load {artifact.path}: {log.reason()}")
        self.inputs, self.outputs = _specs(trt, self._engine, self._profiles)
        self._check_manifest()
        self._plain: dict[int, _Bound] = {}
        self._graphs: dict[int, _Bound] = {}
        self._current: _Bound | None = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Copy in, launch, copy out, and check that the outputs are finite.

        Raises:
            BadInput: as `Session.run`, or a batch that no optimization profile covers.
            SessionFailed: the launch failed, or an output is NaN or infinite.
        """
        self.check_inputs(inputs)
        batch = next(iter(inputs.values())).shape[0]
        known = self._plain.get(batch)
        with Translated(self.backend):
            bound = known or self._prepare(batch)
            self._plain[batch] = bound
            self._load_and_launch(bound, inputs)
            outputs = {
                spec.name: self._memory.fetch(bound.buffers[spec.name]) for spec in self.outputs
            }
        if known is None:
            self._kernels.keep()
        return self._finite(outputs)

    def bind(self, inputs: Arrays) -> None:
        """Copy ``inputs`` to the device, run once plainly, and capture a CUDA graph where asked
        for.

        TensorRT-RTX compiles its kernels here. Where a graph cannot be captured, `enqueue` launches
        plainly, and `enqueue_boundary` and `delivered` say so.
        """
        self._current = (
            None  # a bind that fails must not leave the last one's outputs to be fetched as its own
        )
        self.check_inputs(inputs)
        batch = next(iter(inputs.values())).shape[0]
        known = self._graphs.get(batch)
        with Translated(self.backend):
            bound = known or self._prepare(batch)
            self._load_and_launch(bound, inputs)
            self._memory.synchronize()
            if known is None:
                if self._options.cuda_graph:
                    self._capture(bound)
                self._graphs[batch] = bound
                self._kernels.keep()
            self._current = bound
            self._spoil(bound)
            self.enqueue()
        self.fetch()

    def enqueue(self) -> None:
        """Replay the graph, or launch kernel by kernel."""
        bound = self._current
        if bound is None:
            raise SessionFailed("nothing is bound; call bind() first")
        if bound.replay is not None:
            bound.replay()
        else:
            self._launch(bound)

    def synchronize(self) -> None:
        """Wait for the session's stream.

        Raises:
            SessionFailed: what was enqueued failed on the device.
        """
        with Translated(self.backend):
            self._memory.synchronize()

    def fetch(self) -> dict[str, NDArray[Any]]:
        """Copies of the bound outputs.

        Raises:
            SessionFailed: nothing is bound, or an output is NaN or infinite.
        """
        if self._current is None:
            raise SessionFailed("nothing is bound; call bind() first")
        buffers = self._current.buffers
        with Translated(self.backend):
            outputs = {spec.name: self._memory.fetch(buffers[spec.name]) for spec in self.outputs}
        return self._finite(outputs)

    def delivered(self) -> Delivered:
        """What the engine's own inspector says of each layer."""
        inspector = self._engine.create_engine_inspector()
        if self._current is not None:
            inspector.execution_context = self._current.context
        layers = layers_from_inspector(
            inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        )
        found = delivered_from_engine(layers, self._memory.device)
        bound = self._current
        graph = (
            "nothing bound"
            if bound is None
            else "on"
            if bound.replay
            else f"off: {bound.why_plain}"
        )
        notes = {
            "library": f"{self._flavour.title} {self._flavour.version}",
            "profiles": ", ".join(map(str, self._profiles)),
            "cuda graph": graph,
            **self._kernels.notes(),
        }
        return Delivered(found.device, found.layers, {**found.notes, **notes})

    @property
    def enqueue_boundary(self) -> Boundary:
        """``graph`` where one was captured."""
        return (
            "graph" if self._current is not None and self._current.replay is not None else "device"
        )

    @property
    def cuda_stream(self) -> int:
        """The session's own stream."""
        return self._memory.stream

    def close(self) -> None:
        """Wait for what is under way, then drop graphs, contexts, buffers and engine, in that
        order.
        """
        with contextlib.suppress(
            RuntimeError
        ):  # a GPU that has failed says so again, and nothing is under way on it
            self._memory.synchronize()
        self._current = None
        for batch in self._graphs:  # no name may hold on to a context longer than to the engine
            self._graphs[batch].replay = None
        self._graphs, self._plain = {}, {}
        self._kernels.drop()
        self._engine = self._runtime = None

    def _prepare(self, batch: int) -> _Bound:
        """A context with the best profile for ``batch``, and buffers of exactly its size."""
        index = self._profile(batch)
        with captured(self._trt) as (_, log), self._memory.current():
            context, kept = self._flavour.context(self._engine, self._kernels.read())
            if context is None:
                raise SessionFailed(
                    f"{self._flavour.title} cannot make a context for batch {batch}: {log.reason()}"
                )
            self._kernels.take(kept)
            chosen = index == 0  # which a new context has
            with contextlib.suppress(RuntimeError):  # raised where other calls return False
                chosen = chosen or context.set_optimization_profile_async(
                    index, self._memory.stream
                )
            if not chosen:
                raise SessionFailed(
                    f"{self._flavour.title} refuses profile {index}: {log.reason()}"
                )
            self._memory.synchronize()
            buffers = {}
            for spec in (*self.inputs, *self.outputs):
                shape = tuple(batch if size is None else size for size in spec.shape)
                buffers[spec.name] = self._memory.empty(shape, spec.dtype)
                if spec in self.inputs and not context.set_input_shape(spec.name, shape):
                    raise SessionFailed(
                        f"{self._flavour.title} refuses input shape {shape}: {log.reason()}"
                    )
                if not context.set_tensor_address(spec.name, buffers[spec.name].data_ptr()):
                    raise SessionFailed(
                        f"{self._flavour.title} refuses the buffer of {spec.name}: {log.reason()}"
                    )
            for (
                spec
            ) in self.outputs:  # the engine's word on the shape, against what the manifest led to
                shape = tuple(context.get_tensor_shape(spec.name))
                if shape != tuple(buffers[spec.name].shape):
                    raise SessionFailed(f"output {spec.name!r} has shape {shape} at batch {batch}")
            bound = _Bound(context, buffers)
            size_bytes = self._flavour.scratch_bytes(self._engine, context)
            if size_bytes > 0:
                bound.scratch = self._memory.empty((size_bytes,), "uint8")
                context.set_device_memory(bound.scratch.data_ptr(), size_bytes)
        return bound

    def _spoil(self, bound: _Bound) -> None:
        """Fill the outputs with NaN: a graph that captured nothing must not show what the plain run
        left.
        """
        with self._memory.current():
            for spec in self.outputs:
                if bound.buffers[spec.name].is_floating_point():
                    bound.buffers[spec.name].fill_(float("nan"))

    def _profile(self, batch: int) -> int:
        """The profile that covers ``batch`` and was tuned nearest to it.

        Raises:
            BadInput: none covers it.
        """
        covering = [index for index, profile in enumerate(self._profiles) if batch in profile]
        if not covering:
            ranges = ", ".join(map(str, self._profiles))
            raise BadInput(f"no optimization profile takes batch {batch}; the engine has {ranges}")
        return min(covering, key=lambda index: (abs(self._profiles[index].opt - batch), index))

    def _load_and_launch(self, bound: _Bound, inputs: Arrays) -> None:
        for name, array in inputs.items():
            self._memory.load(bound.buffers[name], array)
        with captured(self._trt) as (_, log):
            self._launch(bound, log)

    def _launch(self, bound: _Bound, log: Log | None = None) -> None:
        with self._memory.current():
            if not bound.context.execute_async_v3(self._memory.stream):
                reason = "is the GPU out of memory?" if log is None else log.reason()
                raise SessionFailed(f"{self._flavour.title} failed to launch: {reason}")

    def _capture(self, bound: _Bound) -> None:
        if not self._flavour.capturable(bound.context, self._memory.stream):
            bound.why_plain = "the library says that this engine cannot be captured"
            return
        try:
            with captured(self._trt) as (_, log):
                bound.replay = self._memory.capture(lambda: self._launch(bound, log))
        except (RuntimeError, SessionFailed) as exc:
            bound.why_plain = f"capture failed ({first_line(exc)})"

    def _finite(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise SessionFailed(
                    f"{self.backend}: output {name!r} holds NaN or infinity"
                    f" ({self._artifact.manifest.precision} overflow?); compare with --precision"
                    " fp32"
                )
        return outputs

    def _check_manifest(self) -> None:
        """The engine must be the one that the manifest tells of; only the engine's bytes are under
        a digest.

        Raises:
            BadArtifact: names what differs.
        """
        manifest = self._artifact.manifest
        record = manifest.engine
        assert record is not None
        held = _batch_ranges(self._engine, self.inputs[0].name)
        told = [(profile.min, profile.opt, profile.max) for profile in self._profiles]
        different = different_tensors(manifest, self.inputs, self.outputs)
        different += [] if held == told else ["optimization profiles"]
        options = record.options
        if self._engine.name != engine_name(
            manifest, refittable=options.strip_weights, tf32=options.tf32
        ):
            different.append(NAMED_FACTS)
        refuse_different(self._artifact, different)


def _specs(
    trt: Any, engine: Any, profiles: tuple[Any, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The engine's own inputs and outputs.

    Raises:
        BadArtifact: one is of a type that sessions do not take (float8, int4, ...).
    """
    found: dict[Any, list[TensorSpec]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
    one_size = len(profiles) == 1 and profiles[0].static
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise BadArtifact(
                f"the engine's tensor {name!r} is of type {kind}, which no session takes; "
                f"build it with inputs and outputs of one of {', '.join(DTYPES.values())}"
            )
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        if one_size and shape[:1] == (
            None,
        ):  # a symbolic batch that the profile allows one size of
            shape = (profiles[0].min, *shape[1:])
        found[engine.get_tensor_mode(name)].append(
            TensorSpec(name=name, dtype=DTYPES[kind], shape=shape)
        )
    inputs, outputs = found.values()
    return tuple(inputs), tuple(outputs)


def _batch_ranges(engine: Any, name: str) -> list[tuple[int, ...]]:
    """Smallest, best and largest batch of each profile, or of its own shape if the engine takes one
    size only.

    The library need not know profile shapes of such an engine: it may raise, or give shapes without
        dimensions.
    """
    batch = int(engine.get_tensor_shape(name)[0])
    if batch >= 0:
        return [(batch, batch, batch)]
    indices = range(engine.num_optimization_profiles)
    return [
        tuple(int(shape[0]) for shape in engine.get_tensor_profile_shape(name, index))
        for index in indices
    ]


def _kernel_file(artifact: Artifact, device: str, flavour: Flavour) -> Path | None:
    """Where kernels that TensorRT-RTX compiles are kept: one file for each engine, GPU and
    version.
    """
    if flavour.kind != "trt-rtx":
        return None
    gpu = "".join(letter if letter.isalnum() else "-" for letter in device)
    return (
        cache_folder()
        / "trt-rtx-kernels"
        / f"{artifact.manifest.file_sha256[:24]}-{flavour.version}-{gpu}.bin"
    )
