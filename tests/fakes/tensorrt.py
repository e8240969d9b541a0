"""TensorRT's Python interface without TensorRT: engines that are JSON, and contexts that compute on
the host.

`FakeTensorRT` stands in for the imported library and `HostMemory` for the GPU's memory, stream and
graphs, so that the logic of `TrtSession` runs on any machine. Classes and members bear the
library's own names and no others, which a test holds against the lists of TensorRT 10, TensorRT 11
and TensorRT-RTX; what a test sets and reads is a `Control`.
"""

from __future__ import annotations

import ctypes
import json
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from resnext.artifact.specs import numpy_dtype
from resnext.network.layers import layers
from resnext.runtimes.buffers import (
    DeviceMemory,
    Replay,
    from_host,
    host_bits,
    host_view,
    torch_dtype,
)
from resnext.runtimes.trt.identity import engine_name

if TYPE_CHECKING:
    from resnext.artifact.manifest import Manifest
    from resnext.runtimes.trt.library import EngineKind

#: Scratch memory that a context of TensorRT-RTX works in, for each image.
_SCRATCH_BYTES = 64
#: What the library logs where nothing else is asked for, in its own form: kind of error, reason,
#: source position.
_SAID = (
    "{0}: Error Code 3: API Usage Error (Parameter check failed. In {0} at"
    " /_src/runtime/api/fake.cpp:101)"
)


@dataclass
class Control:
    """What a test sets, and what it reads. Everything may be changed while a session is open.

    Attributes:
        refuse: calls that fail, by the method's name, each with the line that it logs. They return
            None or False as the library does. ``capture`` and ``empty`` (of `HostMemory`) and
            ``synchronize`` raise RuntimeError.
        function: maps images (N x ...) and the number of classes to logits (N x classes).
        inspector: which TensorRT's form of JSON the engine inspector speaks.
        layer_ms: milliseconds of a layer, from its name, for profilers.
        extra_classes: added to the width that contexts report of outputs.
        journal: what was done, in order, for example ``context``, ``launch 4``, ``capture``,
            ``replay``.
    """

    refuse: dict[str, str] = field(default_factory=dict)
    function: Callable[[NDArray[Any], int], NDArray[Any]] = field(
        default_factory=lambda: host_logits
    )
    inspector: Literal[10, 11] = 11
    layer_ms: Callable[[str], float] = field(default_factory=lambda: lambda _: 1.0)
    extra_classes: int = 0
    journal: list[str] = field(default_factory=list)

    def refuses(self, method: str, logger: Any = None) -> bool:
        """Whether ``method`` is to fail; logs why."""
        if method not in self.refuse:
            return False
        if logger is not None:
            logger.log(ILogger.Severity.ERROR, self.refuse[method] or _SAID.format(method))
        return True


def host_logits(images: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """A fixed linear function of each image, N x ... to N x classes, so that every pixel and its
    place matter.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    weights = np.cos(np.outer(np.arange(flat.shape[1]), np.arange(1, classes + 1)))
    return (flat @ weights / flat.shape[1]).astype(np.float32)


def plan_of(manifest: Manifest, *, open_batch: bool = False, **changes: Any) -> bytes:
    """Bytes of an engine that agrees with ``manifest``.

    Args:
        manifest: of kind ``trt`` or ``trt-rtx``.
        open_batch: leave the batch open in the engine's own shapes, also where only one size is
            allowed.
        changes: fields of the engine that are not to agree: ``name``, ``profiles``, ``inputs``,
            ``outputs``.
    """
    record = manifest.engine
    assert record is not None
    specs = {"inputs": manifest.inputs, "outputs": manifest.outputs}
    shown = {role: [spec.model_dump() for spec in tensors] for role, tensors in specs.items()}
    if open_batch:
        for spec in (*shown["inputs"], *shown["outputs"]):
            spec["shape"] = (None, *spec["shape"][1:])
    plan = {
        "name": engine_name(
            manifest, refittable=record.options.strip_weights, tf32=record.options.tf32
        ),
        **shown,
        "profiles": [
            (profile.min, profile.opt, profile.max) for profile in record.options.profiles
        ],
        "nodes": [layer.name for layer in layers(manifest.network)],
        "half": manifest.precision == "fp16",
        "host_code": record.options.compatibility == "version",
    }
    return json.dumps({**plan, **changes}).encode()


class HostMemory(DeviceMemory):
    """Tensors on the host behind one stream: nothing queued is done before somebody waits, as on a
    GPU.

    Args:
        control: what to refuse, and where to note what was done.
    """

    def __init__(self, control: Control) -> None:
        self.stream = 1
        self.device = "cuda:0 NVIDIA Fake"
        self.sizes: dict[int, int] = {}
        self._control = control
        self._queue: deque[Callable[[], None]] = deque()
        self._recorded: list[Callable[[], None]] | None = None

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """Filled with NaN, or ones, so that what nobody writes is seen."""
        if self._control.refuses("empty"):
            raise torch.cuda.OutOfMemoryError(self._control.refuse["empty"])
        kind = torch_dtype(dtype)
        tensor = torch.full(shape, float("nan") if kind.is_floating_point else 1, dtype=kind)
        self.sizes[tensor.data_ptr()] = tensor.nbytes
        self._control.journal.append(f"buffer {shape}")
        return tensor

    def load(self, target: torch.Tensor, array: NDArray[Any]) -> None:
        """Keeps a copy at once, and queues the rest."""
        source = host_bits(array.copy())
        self.submit(lambda: np.copyto(host_view(target), source))

    def fetch(self, source: torch.Tensor) -> NDArray[Any]:
        """Wait and copy."""
        self.synchronize()
        return from_host(source)

    def synchronize(self) -> None:
        """Do what is queued."""
        if self._control.refuses("synchronize"):
            raise RuntimeError(self._control.refuse["synchronize"])
        if self._recorded is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        while self._queue:
            self._queue.popleft()()

    def current(self) -> AbstractContextManager[Any]:
        """There is only one."""
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Replay:
        """Records what ``work`` submits, and does none of it."""
        self._control.journal.append("capture")
        if self._control.refuses("capture"):
            raise RuntimeError(self._control.refuse["capture"])
        self.synchronize()
        recorded = self._recorded = []
        try:
            work()
        finally:
            self._recorded = None
        return _Graph(self, recorded)

    def submit(self, work: Callable[[], None]) -> None:
        """Queue ``work``, or record it while a graph is captured."""
        (self._queue if self._recorded is None else self._recorded).append(work)

    def note(self, text: str) -> None:
        """Note what was done, in the control's journal."""
        self._control.journal.append(text)


class _Graph:
    """What replays a recording."""

    def __init__(self, memory: HostMemory, recorded: list[Callable[[], None]]) -> None:
        self._memory, self._recorded = memory, recorded

    def __call__(self) -> None:
        self._memory.note("replay")
        for work in self._recorded:
            self._memory.submit(work)

    def __del__(self) -> None:
        self._memory.note("graph dropped")


class ILogger:
    """As the library's."""

    class Severity(Enum):
        """As the library's."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        """To be overridden."""
        raise NotImplementedError


class IProgressMonitor:
    """As the library's."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """To be overridden."""

    def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002  # the library's names
        """To be overridden."""
        return True

    def phase_finish(self, phase_name: str) -> None:
        """To be overridden."""


class IProfiler:
    """As the library's."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """To be overridden."""


class TensorIOMode(Enum):
    """As the library's."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class LayerInformationFormat(Enum):
    """As the library's."""

    ONELINE = 0
    JSON = 1


class ExecutionContextAllocationStrategy(Enum):
    """As the library's."""

    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(Enum):
    """As TensorRT-RTX's."""

    LAZY = 0
    EAGER = 1
    NONE = 2


class DataType(Enum):
    """As the library's."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10
    E8M0 = 11


#: What the library's ``nptype`` knows, which is less than engines may hold.
_NPTYPES: dict[DataType, type] = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}
#: Types of a plan's tensors; others are under the library's own names there, for example ``FP8``.
_PLANNED = {np.dtype(kind).name: data_type for data_type, kind in _NPTYPES.items()} | {
    "bfloat16": DataType.BF16
}


class Runtime:
    """Loads plans of `plan_of`."""

    def __init__(self, logger: Any, fake: FakeTensorRT) -> None:
        self.engine_host_code_allowed = False
        self._logger, self._fake = logger, fake

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """None for what is no plan, or holds code that was not allowed."""
        control = self._fake.control
        if control.refuses("deserialize_cuda_engine", self._logger):
            return None
        try:
            plan = json.loads(serialized_engine)
        except ValueError:
            plan = None
        if plan is None or (plan["host_code"] and not self.engine_host_code_allowed):
            reason = (
                "Magic tag does not match"
                if plan is None
                else "engine_host_code_allowed is not set"
            )
            line = (
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization"
                f" assertion: {reason}.)"
            )
            self._logger.log(ILogger.Severity.ERROR, line)
            return None
        control.journal.append("engine")
        kind = RtxEngine if self._fake.kind == "trt-rtx" else ICudaEngine
        return kind(plan, self._logger, self._fake)

    def __del__(self) -> None:
        self._fake.control.journal.append("runtime dropped")


def _tensor(plan: dict[str, Any], name: str) -> dict[str, Any]:
    tensors: list[dict[str, Any]] = [*plan["inputs"], *plan["outputs"]]
    return next(tensor for tensor in tensors if tensor["name"] == name)


class ICudaEngine:
    """An engine that was loaded from a plan."""

    def __init__(self, plan: dict[str, Any], logger: Any, fake: FakeTensorRT) -> None:
        self.name: str = plan["name"]
        self.num_optimization_profiles = len(plan["profiles"])
        self.num_io_tensors = len(plan["inputs"]) + len(plan["outputs"])
        self._plan, self._logger, self._fake = plan, logger, fake

    def get_tensor_name(self, index: int) -> str:
        """Inputs come first."""
        return str([*self._plan["inputs"], *self._plan["outputs"]][index]["name"])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Input or output."""
        return (
            TensorIOMode.INPUT
            if any(t["name"] == name for t in self._plan["inputs"])
            else TensorIOMode.OUTPUT
        )

    def get_tensor_dtype(self, name: str) -> DataType:
        """Element type."""
        dtype = _tensor(self._plan, name)["dtype"]
        return _PLANNED[dtype] if dtype in _PLANNED else DataType[dtype]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 where a size is open."""
        return tuple(-1 if size is None else size for size in _tensor(self._plan, name)["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        """Smallest, best and largest shape; raises for what has none, which may be any tensor of
        one fixed shape.
        """
        batch, *rest = _tensor(self._plan, name)["shape"]
        if batch is not None or not 0 <= profile_index < len(self._plan["profiles"]):
            why = "Is the tensor name an input and the profile index valid?"
            raise RuntimeError(f"Could not get profile shape for tensor '{name}'. {why}")
        return [(size, *rest) for size in self._plan["profiles"][profile_index]]

    def create_engine_inspector(self) -> EngineInspector:
        """Says what each layer got."""
        return EngineInspector(self._plan, self._fake.control)

    def create_execution_context(self) -> IExecutionContext | None:
        """With the first profile set."""
        control = self._fake.control
        if control.refuses("create_execution_context", self._logger):
            return None
        control.journal.append("context")
        return IExecutionContext(self._plan, self._logger, self._fake)

    def __del__(self) -> None:
        self._fake.control.journal.append("engine dropped")


class IExecutionContext:
    """Computes `Control.function` of whatever lies at the addresses that it was given."""

    def __init__(self, plan: dict[str, Any], logger: Any, fake: FakeTensorRT) -> None:
        self._plan, self._logger, self._fake = plan, logger, fake
        self.profiler: IProfiler | None = None
        self._profile = 0
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:  # noqa: ARG002
        """Raises for a profile that the engine lacks, as the library's binding does; it never
        returns False.
        """
        refused = self._fake.control.refuses("set_optimization_profile_async", self._logger)
        if refused or not 0 <= profile_index < len(self._plan["profiles"]):
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = profile_index
        self._fake.control.journal.append(f"profile {profile_index}")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """False outside of the profile that is set, for other fixed sizes than the engine's, and
        for no input.
        """
        if self._fake.control.refuses("set_input_shape", self._logger):
            return False
        low, _, high = self._plan["profiles"][self._profile]
        fixed = [
            list(tensor["shape"][1:]) for tensor in self._plan["inputs"] if tensor["name"] == name
        ]
        if not low <= shape[0] <= high or fixed != [list(shape[1:])]:
            told = ",".join(map(str, shape))
            reason = (
                f"Set dimension [{told}] for tensor {name} does not satisfy any optimization"
                " profiles"
            )
            line = (
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({reason}. In"
                f" {name} at /a.cpp:1)"
            )
            self._logger.log(ILogger.Severity.ERROR, line)
            return False
        self._shape = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor lies; False for a name that the engine lacks."""
        known = [tensor["name"] for tensor in (*self._plan["inputs"], *self._plan["outputs"])]
        if self._fake.control.refuses("set_tensor_address", self._logger) or name not in known:
            return False
        self._addresses[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """With the batch that was set; -1 before."""
        batch = self._shape[0] if self._shape else -1
        rest = _tensor(self._plan, name)["shape"][1:]
        more = self._fake.control.extra_classes if name == self._plan["outputs"][0]["name"] else 0
        return (batch, *rest[:-1], rest[-1] + more)

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue the work; False on another stream than the memory's."""
        fake = self._fake
        if (
            fake.control.refuses("execute_async_v3", self._logger)
            or stream_handle != fake.memory.stream
        ):
            return False
        source, target = self._plan["inputs"][0], self._plan["outputs"][0]
        batch = self._shape[0]
        images = self._view(source, batch)
        logits = self._view(target, batch)
        fake.control.journal.append(f"launch {batch}")

        def work() -> None:
            logits[...] = fake.control.function(images, logits.shape[1])

        fake.memory.submit(work)
        if self.profiler is not None:
            for node in self._plan["nodes"]:
                self.profiler.report_layer_time(node, fake.control.layer_ms(node))
        return True

    def _view(self, spec: dict[str, Any], batch: int) -> NDArray[Any]:
        """The memory at a tensor's address, which must be a buffer of exactly its size."""
        address, dtype = self._addresses[spec["name"]], numpy_dtype(spec["dtype"])
        shape = (batch, *spec["shape"][1:])
        size_bytes = prod(shape) * dtype.itemsize
        held = self._fake.memory.sizes.get(address)
        assert held == size_bytes, f"{spec['name']} needs {size_bytes} bytes, the buffer has {held}"
        raw = (ctypes.c_byte * size_bytes).from_address(address)
        return np.frombuffer(raw, dtype).reshape(shape)

    def __del__(self) -> None:
        self._fake.control.journal.append("context dropped")


class EngineInspector:
    """One layer for each convolution and classifier, in the form of TensorRT 10 or 11."""

    def __init__(self, plan: dict[str, Any], control: Control) -> None:
        self.execution_context: IExecutionContext | None = None
        self._plan, self._control = plan, control

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        """JSON, or one line where that is asked for."""
        tensors = [*self._plan["inputs"], *self._plan["outputs"]]
        names = [tensor["name"] for tensor in tensors]
        if format is not LayerInformationFormat.JSON:
            return ", ".join(names)
        told = [self._layer(node) for node in self._plan["nodes"]]
        if self._control.inspector == 10:
            return json.dumps({"Layers": told, "Bindings": names})
        return json.dumps({"Layers": told, "I/O Tensors": [{"Name": name} for name in names]})

    def _layer(self, node: str) -> dict[str, Any]:
        half = self._plan["half"]
        if self._control.inspector == 10:
            form = {"Format/Datatype": f"Row major linear {'FP16 format' if half else 'FP32'}"}
        else:
            form = {
                "Datatype": "Half" if half else "Float",
                "Format": "(Linear) Row major linear format",
            }
        tensor = {"Location": "Device", "Dimensions": [-1, 8, 4, 4], **form}
        ends = {
            "Inputs": [{"Name": f"{node}_in", **tensor}],
            "Outputs": [{"Name": f"{node}_out", **tensor}],
        }
        kind = "gemm" if node == "fc" else "CaskConvolution"
        return {
            "Name": node,
            "LayerType": kind,
            **ends,
            "Metadata": f"[ONNX Layer: {node}]",
            "TacticName": "",
        }


class IRuntimeCache:
    """Batch sizes that kernels were compiled for."""

    def __init__(self, fake: FakeTensorRT) -> None:
        self._fake = fake
        self._compiled: set[int] = set()

    def serialize(self) -> memoryview | None:
        """A buffer with JSON, of this device; None where that is refused. The library's is no
        ``bytes`` either.
        """
        if self._fake.control.refuses("serialize"):
            return None
        held = {"device": self._fake.memory.device, "batches": sorted(self._compiled)}
        return memoryview(json.dumps(held).encode())

    def deserialize(self, blob: bytes) -> bool:
        """False, and nothing taken, for what another device wrote or nobody did."""
        try:
            held = json.loads(blob)
        except ValueError:
            return False
        if self._fake.control.refuses("deserialize") or held["device"] != self._fake.memory.device:
            return False
        self._compiled = set(held["batches"])
        return True

    def _compile(self, batch: int) -> None:
        if batch not in self._compiled:
            self._fake.control.journal.append(f"compile {batch}")
            self._compiled.add(batch)


class IRuntimeConfig:
    """How a context of TensorRT-RTX is made."""

    def __init__(self, fake: FakeTensorRT) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._fake = fake
        self._cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        """Who allocates what contexts work in."""
        self._strategy = strategy

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        """What was set."""
        return self._strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        """An empty one."""
        return IRuntimeCache(self._fake)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        """Where kernels are kept."""
        self._cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        """What was set."""
        return self._cache


class RtxEngine(ICudaEngine):
    """What the engine of TensorRT-RTX has beyond TensorRT's."""

    @property
    def device_memory_size_v2(self) -> int:
        """Enough for the largest batch."""
        return _SCRATCH_BYTES * int(max(high for _, _, high in self._plan["profiles"]))

    def create_runtime_config(self) -> IRuntimeConfig:
        """Options of a context."""
        return IRuntimeConfig(self._fake)

    def create_execution_context(
        self, runtime_config: IRuntimeConfig | None = None
    ) -> IExecutionContext | None:
        """With the cache of the options, or one of its own."""
        if self._fake.control.refuses("create_execution_context", self._logger):
            return None
        self._fake.control.journal.append("context")
        return RtxContext(
            self._plan, self._logger, self._fake, runtime_config or IRuntimeConfig(self._fake)
        )


class RtxContext(IExecutionContext):
    """A context that compiles kernels for each shape that is new to its cache, in memory that it
    may have to be given.

    A graph that is captured of kernels that are still being compiled would keep slower ones, so the
    journal tells.
    """

    def __init__(
        self, plan: dict[str, Any], logger: Any, fake: FakeTensorRT, config: IRuntimeConfig
    ) -> None:
        super().__init__(plan, logger, fake)
        self._cache = config.get_runtime_cache() or IRuntimeCache(fake)
        self._managed = config.get_execution_context_allocation_strategy().name == "USER_MANAGED"
        self._scratch = (0, 0)
        fake.control.journal.append(
            f"kernels {config.dynamic_shapes_kernel_specialization_strategy.name}"
        )

    def update_device_memory_size_for_shapes(self) -> int:
        """For the shapes that are set; 0 where that is refused."""
        if not self._shape or self._fake.control.refuses("update_device_memory_size_for_shapes"):
            return 0
        return _SCRATCH_BYTES * self._shape[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        """What to work in."""
        self._scratch = (memory, size)

    def is_stream_capturable(self, stream: int) -> bool:
        """Where memory was given, and it is not refused."""
        refused = self._fake.control.refuses("is_stream_capturable", self._logger)
        return self._managed and stream == self._fake.memory.stream and not refused

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Compile where needed, then as TensorRT."""
        address, size_bytes = self._scratch
        if (
            self._managed
            and not _SCRATCH_BYTES * self._shape[0]
            <= size_bytes
            <= self._fake.memory.sizes[address]
        ):
            reason = (
                "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (device memory was not"
                " given.)"
            )
            self._logger.log(ILogger.Severity.ERROR, reason)
            return False
        self._cache._compile(self._shape[0])
        return super().execute_async_v3(stream_handle)


class FakeTensorRT:
    """Stands in for the imported module ``tensorrt`` or ``tensorrt_rtx``.

    Args:
        kind: which of the two.
        behavior: fields of `Control`: what goes wrong, and what engines compute.

    Attributes:
        kind: as given.
        control: what a test sets and reads.
        memory: that goes with it; contexts work on its stream alone.
    """

    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    IProfiler = IProfiler
    TensorIOMode = TensorIOMode
    LayerInformationFormat = LayerInformationFormat
    DataType = DataType
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def __init__(self, kind: EngineKind = "trt", **behavior: Any) -> None:
        self.__name__ = "fake_tensorrt"
        self.kind: EngineKind = kind
        self.control = Control(**behavior)
        self.memory = HostMemory(self.control)

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802  # the library's name
        """What loads engines."""
        return Runtime(logger, self)

    @staticmethod
    def nptype(trt_type: Any) -> type:
        """NumPy's type.

        Raises:
            TypeError: NumPy has none: bfloat16, float8, int4 and their like.
        """
        if trt_type not in _NPTYPES:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return _NPTYPES[trt_type]
