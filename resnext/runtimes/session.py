"""The Session interface: one way to run a network, whatever the runtime.

A session never times itself; the harness owns the one clock. A device or provider that was asked
for and not given is an error when the session is opened, never a silent fallback.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from numpy.typing import NDArray
from typing_extensions import Self

from resnext.artifact.specs import TensorSpec
from resnext.errors import BadInput

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

    def share(self, dtype: str, ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul")) -> float:
        """Share (0 to 1) of the layers whose operator is in ``ops`` that compute in ``dtype``; 0 if
        there are none.

        It counts layers; `resnext.verify.delivered.delivered_share` weighs them and misses none.
        """
        heavy = [layer for layer in self.layers if layer.op in ops]
        return sum(layer.dtype == dtype for layer in heavy) / len(heavy) if heavy else 0.0

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


class Session(ABC):
    """A network ready to run on one runtime. A context manager; not thread-safe.

    Attributes:
        backend: the registry name that it was opened by.
        inputs: what `run` and `bind` take.
        outputs: what `run` and `fetch` give.
    """

    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run once, end to end: host arrays in, host arrays out, finished when it returns.

        The result belongs to the caller; the session never writes to it again.

        Raises:
            BadInput: an input is missing or does not fit its spec.
            SessionFailed: the runtime failed.
        """

    @abstractmethod
    def bind(self, inputs: Arrays) -> None:
        """Copy ``inputs`` into buffers that the session owns, and make outputs of fitting size.

        Valid until the next `bind` or `close`. Compiling, capturing and choosing kernels for the
        shape happen here.

        Raises:
            BadInput: an input is missing or does not fit its spec.
            SessionFailed: the runtime failed.
        """

    @abstractmethod
    def enqueue(self) -> None:
        """Start one run over the bound buffers; may return before it is finished. No checks: this
        is the timed path.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything enqueued has finished."""

    @abstractmethod
    def fetch(self) -> dict[str, NDArray[Any]]:
        """Copies of the bound outputs, as the last finished `enqueue` left them."""

    @abstractmethod
    def delivered(self) -> Delivered:
        """What precision and device each layer really got. May be slow; never call it between timed
        runs.
        """

    @property
    def enqueue_boundary(self) -> Boundary:
        """Which boundary a time taken around `enqueue` has. ``host`` where the device is the host's
        processor.
        """
        return "host"

    @property
    def cuda_stream(self) -> int | None:
        """Handle of the CUDA stream that `enqueue` works on, for events; None on a CPU."""
        return None

    @property
    def model_size_bytes(self) -> int | None:
        """Size of the weights as a live model holds them; None for a session of a file."""
        return None

    def close(self) -> None:  # noqa: B027  # not abstract: many sessions hold nothing to give back
        """Give back what the session holds. May be called twice."""

    def check_inputs(self, inputs: Arrays) -> None:
        """Check names, element types and shapes of ``inputs``.

        Raises:
            BadInput: with what was got and what is wanted.
        """
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
