"""The Session interface: one way to run a network, whatever the runtime.

A session never times itself; the harness owns the one clock. A device or provider that was asked
for and not given is an error when the session is opened, never a silent fallback.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NoReturn

from numpy.typing import NDArray
from typing_extensions import Self

from resnext.artifact.specs import TensorSpec
from resnext.errors import BadInput, SessionFailed

#: Named arrays, the currency between sessions and their callers.
Arrays = Mapping[str, NDArray[Any]]

#: Where a time was taken: ``host`` end to end with copies, ``device`` between CUDA events around
#: the plain launch, ``graph`` between CUDA events around a CUDA-graph replay. Unlike boundaries are
#: never compared.
Boundary = Literal["host", "device", "graph"]


@dataclass(frozen=True)
class DeliveredLayer:
    """What one layer really got.

    Attributes:
        name: node or module name.
        op: operator, for example ``Conv``.
        dtype: element type that it computes in.
        device: device or provider that it runs on.
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
    """What a session really got of what was asked for.

    Attributes:
        device: where the network runs, for example ``cpu`` or ``cuda:0 NVIDIA H200``.
        layers: each layer, as the runtime reports it after its own rewriting.
        notes: further facts by name: threads, memory format, CUDA graph, ...
    """

    device: str
    layers: tuple[DeliveredLayer, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One line: how many convolutions and matrix products got which element type, where."""
        heavy = Counter(
            (layer.dtype, layer.device)
            for layer in self.layers
            if layer.op in ("Conv", "Gemm", "MatMul")
        )
        return (
            ", ".join(
                f"{count} {dtype} on {device}" for (dtype, device), count in sorted(heavy.items())
            )
            or "none"
        )


class Bound(ABC):
    """Inputs of one shape in buffers of their own, with fitting outputs. A context manager.

    Usable until it or its session is closed, whatever else the session runs or binds meanwhile.

    Args:
        backend: name of the session's runtime, for messages.
        boundary: of a time taken around `enqueue`; ``host`` if the device is the host's processor.
        cuda_stream: handle of the CUDA stream that `enqueue` queues on; None on a CPU.
    """

    def __init__(
        self, backend: str, boundary: Boundary = "host", cuda_stream: int | None = None
    ) -> None:
        self.backend, self.boundary, self.cuda_stream = backend, boundary, cuda_stream
        self._closed = False

    def enqueue(self) -> None:
        """Start one run over the bound inputs; may return before it is finished.

        Raises:
            SessionFailed: the runtime failed, or this is closed; so too for the other methods.
        """
        if self._closed:  # one test of a flag: this is the timed path
            self._refuse()
        self._launch()

    def synchronize(self) -> None:
        """Wait until everything enqueued has finished."""
        if self._closed:
            self._refuse()
        self._wait()

    def fetch(self) -> dict[str, NDArray[Any]]:
        """Copies of the outputs of the last `enqueue`, waited for; they belong to the caller."""
        if self._closed:
            self._refuse()
        return self._outputs()

    def close(self) -> None:
        """Give the buffers back. May be called twice."""
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
        """Let go of the buffers."""

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
    """A network ready to run on one runtime. A context manager; not thread-safe.

    Args:
        backend: the registry name that it was opened by.

    Attributes:
        inputs: what `run` and `bind` take.
        outputs: what `run` and `Bound.fetch` give.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._closed = False
        self._bounds: weakref.WeakSet[Bound] = weakref.WeakSet()

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run once, end to end: host arrays in, host arrays out, finished when it returns.

        The result belongs to the caller; the session never writes to it again.

        Raises:
            BadInput: an input is missing or does not fit its spec.
            SessionFailed: the runtime failed, or the session is closed.
        """

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """The output for ``images``, of a network with one input and one output.

        Args:
            images: N x ..., as the input takes them; float32 images are converted to the input's
                floating-point type.

        Returns:
            N x classes.

        Raises:
            BadInput: they do not fit the input.
            SessionFailed: as `run`.
        """
        (wanted,), (result,) = self.inputs, self.outputs
        return self.run({wanted.name: wanted.cast(images)})[result.name]

    def bind(self, inputs: Arrays) -> Bound:
        """Copy ``inputs`` into buffers of their own, and make outputs of fitting size.

        Compiling, capturing and choosing kernels for the shape happen here, and one run.

        Raises:
            BadInput: an input is missing or does not fit its spec.
            SessionFailed: the runtime failed, or the session is closed.
        """
        self.check_inputs(inputs)
        bound = self._bind(inputs)
        self._bounds.add(bound)
        return bound

    @abstractmethod
    def _bind(self, inputs: Arrays) -> Bound:
        """`bind`, for inputs that have been checked."""

    @abstractmethod
    def delivered(self) -> Delivered:
        """What precision and device each layer really got; of a runtime that compiles for a shape,
        in the shape that was bound last. May be slow; never call it between timed runs.
        """

    @property
    def model_size_bytes(self) -> int | None:
        """Size of the weights as a live model holds them; None for a session of a file."""
        return None

    def close(self) -> None:
        """Give back what the session holds, and close what it bound. May be called twice."""
        self._closed = True
        for bound in list(self._bounds):
            bound.close()

    def check_inputs(self, inputs: Arrays) -> None:
        """Check names, element types and shapes of ``inputs``.

        Raises:
            BadInput: with what was got and what is wanted.
            SessionFailed: the session is closed.
        """
        if self._closed:
            raise SessionFailed(f"{self.backend}: the session is closed")
        wanted = [spec.name for spec in self.inputs]
        if set(inputs) != set(wanted):
            raise BadInput(f"inputs must be named {wanted}, got {sorted(inputs)}")
        for spec in self.inputs:
            spec.check(inputs[spec.name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
