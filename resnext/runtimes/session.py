"""The Session interface: one way to run a network, whatever the runtime.

A session never times itself; the harness owns the one clock. If a runtime does not use the
requested device or provider, opening the session fails: nothing falls back silently.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from resnext.artifact.specs import BatchRange, TensorSpec
from resnext.errors import BadInput, SessionFailed, UsageError

from .counters import Counters as Counters

#: Named arrays, the currency between sessions and their callers.
Arrays = Mapping[str, NDArray[Any]]

#: Operators of layers that do nearly all the work.
HEAVY = ("Conv", "Gemm", "MatMul")

#: Device of a session whose network another process runs, of which its runtime knows only what it
#: is told.
SERVED = "server"

#: What a time includes: ``host``, end to end with copies; ``device``, between CUDA events around
#: plain launches; ``graph``, between CUDA events around a CUDA-graph replay. Times with different
#: boundaries are never compared.
Boundary = Literal["host", "device", "graph"]


@dataclass(frozen=True)
class DeliveredLayer:
    """One layer as the runtime executes it.

    Attributes:
        name: node or module name.
        op: operator, for example ``Conv``.
        dtype: element type of the computation.
        device: device or provider.
        modules: convolutions and classifier that it computes, by parameter prefix
            (``layer1.0.conv2``); none for other layers.
    """

    name: str
    op: str
    dtype: str
    device: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delivered:
    """The device and precision that a runtime really uses.

    Attributes:
        device: for example ``cpu`` or ``cuda:0 NVIDIA H200``.
        layers: all layers, as the runtime reports them after its own optimizations.
        notes: further facts by name: threads, memory format, CUDA graph, ...
    """

    device: str
    layers: tuple[DeliveredLayer, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One line: convolutions and matrix products, counted by element type and device."""
        if self.device == SERVED:
            return "unknown"
        heavy = Counter((layer.dtype, layer.device) for layer in self.layers if layer.op in HEAVY)
        return (
            ", ".join(
                f"{count} {dtype} on {device}" for (dtype, device), count in sorted(heavy.items())
            )
            or "none"
        )


@dataclass(frozen=True)
class LayerTime:
    """The time that a runtime reports for one of its layers.

    Attributes:
        layer: the layer as the runtime executes it.
        ns: nanoseconds of one run: the median over the profiled runs.
        kernel: kernel that computes it, as the runtime calls it; "" if the runtime does not tell.
    """

    layer: DeliveredLayer
    ns: float
    kernel: str = ""


class Bound(ABC):
    """Inputs of one shape, with outputs, in dedicated buffers. A context manager.

    It stays usable until it or its session is closed, whatever else the session runs or binds.

    Args:
        backend: name of the session's runtime, for messages.
        boundary: what a time around `enqueue` includes; ``host`` on a CPU.
        cuda_stream: handle of the CUDA stream that `enqueue` uses; None on a CPU.
    """

    def __init__(
        self, backend: str, boundary: Boundary = "host", cuda_stream: int | None = None
    ) -> None:
        self.backend, self.boundary, self.cuda_stream = backend, boundary, cuda_stream
        self._closed = False

    def enqueue(self) -> None:
        """Start one run over the bound inputs; may return before it is finished.

        Raises:
            SessionFailed: the runtime failed, or this is closed. The other methods raise it too.
        """
        if self._closed:  # a flag only, because this is the timed path
            self._refuse()
        self._launch()

    def synchronize(self) -> None:
        """Wait until everything enqueued has finished."""
        if self._closed:
            self._refuse()
        self._wait()

    def fetch(self) -> dict[str, NDArray[Any]]:
        """Wait for the last `enqueue`, and return copies of its outputs; the caller owns them."""
        if self._closed:
            self._refuse()
        return self._outputs()

    def close(self) -> None:
        """Release the buffers. May be called twice."""
        if not self._closed:
            self._closed = True
            self._drop()

    @abstractmethod
    def _launch(self) -> None:
        """Start one run."""

    def _wait(self) -> None:  # noqa: B027  # not abstract: a CPU has nothing pending
        """Wait for the device."""

    @abstractmethod
    def _outputs(self) -> dict[str, NDArray[Any]]:
        """Wait, and copy the outputs."""

    @abstractmethod
    def _drop(self) -> None:
        """Release the buffers."""

    def _refuse(self) -> NoReturn:
        raise SessionFailed(f"{self.backend}: the bound input is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Session(ABC):
    """A network ready to run on one runtime. A context manager; not thread-safe but for `streams`.

    Args:
        backend: name of the runtime in the registry.
        batch_ranges: batch sizes that the artifact takes; empty for a live model, which takes any.

    Attributes:
        inputs: inputs of `run` and `bind`.
        outputs: results of `run` and `Bound.fetch`.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: What makes a number of NaN and infinity in an input, so that logits would look valid; such
    #: inputs are refused. "" if nothing does.
    _hides_nan = ""
    #: Where another process runs the network: on this machine, whose processors it takes, or not;
    #: "" if this process runs it.
    served: Literal["", "here", "elsewhere"] = ""
    #: Whether what runs is known to be the artifact's file: a server may not say.
    confirms_artifact = True

    def __init__(self, backend: str, batch_ranges: tuple[BatchRange, ...] = ()) -> None:
        self.backend, self.batch_ranges = backend, batch_ranges
        self._closed = False
        self._bounds: weakref.WeakSet[Bound] = weakref.WeakSet()

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run once, end to end: host arrays in, host arrays out, finished when it returns.

        The caller owns the result; the session never writes to it again.

        Raises:
            BadInput: an input is missing or does not match its spec.
            SessionFailed: the runtime failed, or the session is closed.
        """

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """The output for ``images``, of a network with one input and one output.

        Args:
            images: N x ..., in the input's shape; float32 images are converted to the input's
                floating-point type.

        Returns:
            N x classes.

        Raises:
            BadInput: they do not match the input's spec.
            SessionFailed: as `run`.
        """
        (spec,), (result,) = self.inputs, self.outputs
        return self.run({spec.name: spec.cast(images)})[result.name]

    def bind(self, inputs: Arrays) -> Bound:
        """Copy ``inputs`` into dedicated buffers, and allocate outputs.

        Compiles, chooses kernels and captures for this shape, and runs once.

        Raises:
            BadInput: an input is missing or does not match its spec.
            SessionFailed: the runtime failed, or the session is closed.
        """
        self.check_inputs(inputs)
        bound = self._bind(inputs)
        self._bounds.add(bound)
        return bound

    @abstractmethod
    def _bind(self, inputs: Arrays) -> Bound:
        """`bind` for inputs that are already checked."""

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        """One `run` for each request that may be in flight: each may be called on its own thread
        while the others run.
        """
        return (self.run,)

    @abstractmethod
    def delivered(self) -> Delivered:
        """Actual precision and device of each layer. If the runtime compiles for shapes, these are
        the layers for the last bound shape. May be slow; never call it between timed runs.
        """

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object] = lambda: None
    ) -> tuple[LayerTime, ...]:
        """Time of each layer, from the runtime's own profiler.

        The profiled runs are those of a second network, with the same options; `run` and bound
        inputs are not affected. Their clock is the runtime's, so the times are for comparing
        layers. The time of a run is the harness's to measure, with profiling off.

        Args:
            inputs: as for `run`.
            runs: number of profiled runs, after one that is not counted.
            before_each: called before each profiled run: the harness times its own run there, so
                that the two take turns.

        Returns:
            The layers that ran, in the order of execution.

        Raises:
            UsageError: the runtime does not report times of layers.
            BadInput: an input is missing or does not match its spec.
            SessionFailed: the runtime failed, or the session is closed.
        """
        del inputs, runs, before_each
        raise UsageError(f"backend {self.backend!r} does not report times of layers")

    def counters(self) -> Counters | None:
        """What the server that runs the network has counted; None without one, or if it does not
        tell.

        Raises:
            SessionFailed: it does not answer, or the session is closed.
        """
        return None

    def takes(self, batch: int) -> bool:
        """Whether ``batch`` is in the artifact's range, or in that of one profile of an engine."""
        return not self.batch_ranges or any(batch in covered for covered in self.batch_ranges)

    @property
    def model_size_bytes(self) -> int | None:
        """Size of a live model's weights in memory; None for a session of a file."""
        return None

    def close(self) -> None:
        """Release all resources, and close all bound inputs. May be called twice."""
        self._closed = True
        for bound in list(self._bounds):
            bound.close()

    def check_inputs(self, inputs: Arrays) -> None:
        """Check names, element types and shapes of ``inputs``, and that the artifact takes their
        batch, even if the runtime would run others: nobody proved what they give.

        Raises:
            BadInput: says the actual and the expected value.
            SessionFailed: the session is closed.
        """
        if self._closed:
            raise SessionFailed(f"{self.backend}: the session is closed")
        if inputs.keys() != {spec.name for spec in self.inputs}:
            names = [spec.name for spec in self.inputs]
            raise BadInput(f"inputs must be named {names}, got {sorted(inputs)}")
        for spec in self.inputs:
            array = inputs[spec.name]
            shape = array.shape
            batch = shape[0] if shape and shape[1:] == spec.shape[1:] else 0
            if self.batch_ranges and batch and not self.takes(batch):
                raise BadInput(
                    f"{self.backend}: batch {batch} is not among the artifact's,"
                    f" {', '.join(map(str, self.batch_ranges))}",
                    hint="run it in batches that it takes, or export it with another `batch`",
                )
            spec.check(array)
            # min() and max() take 0.1 ms for eight images and need no memory; both return NaN if
            # there is one.
            if (
                self._hides_nan
                and array.dtype.kind != "u"
                and not (np.isfinite(array.min()) and np.isfinite(array.max()))
            ):
                raise BadInput(
                    f"input {spec.name!r} holds NaN or infinity, which {self._hides_nan} would turn"
                    " into a number and hide"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
