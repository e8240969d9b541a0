"""A model on a server as a session, like every other runtime: each run is a request."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.specs import numpy_dtype
from resnext.errors import BadInput, MissingRequirement, SessionFailed
from resnext.runtimes.address import Address
from resnext.runtimes.counters import Counters
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import SERVED, Arrays, Bound, Delivered, Session

from .answers import Statistics
from .http_transport import HttpTransport
from .model import ServedModel, hold
from .transport import INFER_S, Transport

#: Seconds in which a server must have counted what it answered.
_COUNTED_S = 0.2


class V2Session(Session):
    """A served model, held against the artifact that it is made of.

    What computes is another process, which may batch requests of several clients. Each stream has a
    connection of its own.

    Args:
        artifact: names, types and sizes of the tensors, and the digest.
        options: how many requests may be in flight.
        address: where the model is.
        backend: name of the session, for messages.
        infer_s: longest wait for an inference, seconds.

    Attributes:
        model: what the server says.

    Raises:
        SessionFailed: the server is not there, or the model is not ready.
        BadArtifact: it is another model than the artifact.
        MissingRequirement: the client for gRPC is not installed.
    """

    def __init__(
        self,
        artifact: Artifact,
        options: SessionOptions,
        address: Address,
        backend: str,
        infer_s: float = INFER_S,
    ) -> None:
        self._transports: list[Transport] = []
        open_one = partial(_connected, address, infer_s)
        try:
            self._transports.append(open_one())
            self.model = ServedModel.asked(address, self._transports[0])
            self._known = hold(self.model, artifact)
            ranges = self.model.batch_ranges(artifact.manifest.batch_ranges)
            self._transports += [open_one() for _ in range(options.streams - 1)]
        except BaseException:
            self._close_all()
            raise
        super().__init__(backend, ranges)
        if artifact.manifest.quantized:
            self._hides_nan = "quantization"
        self.confirms_artifact = bool(self.model.digest)
        self.served = "here" if address.here else "elsewhere"
        self.inputs, self.outputs = artifact.manifest.inputs, artifact.manifest.outputs
        self._names = tuple(spec.name for spec in self.outputs)
        self._sent = [0] * options.streams
        self._of_others = 0
        try:
            self.counters()  # what others have asked for so far
        except BaseException:
            self._close_all()
            raise

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Send one request, and wait for its answer."""
        return self._request(0, inputs)

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        """`run` on each connection."""
        return tuple(partial(self._request, index) for index in range(len(self._transports)))

    def counters(self) -> Counters | None:
        """The server's counters, if it has some. Triton counts a request a little after its answer;
        those of this session are waited for.
        """
        self._refuse_closed()
        ends = time.monotonic() + _COUNTED_S
        while True:
            statistics = self._transports[0].statistics()
            if statistics is None or not statistics.model_stats:
                return None
            counters = _counters(statistics, sum(self._sent))
            # Requests of others are never taken back, so fewer means that some of ours are missing.
            others = counters.requests - counters.sent
            if others >= self._of_others or time.monotonic() > ends:  # or the model was reloaded
                self._of_others = others
                return counters

    def delivered(self) -> Delivered:
        """What the server says: of its layers it says nothing."""
        notes = {
            **self.model.notes(),
            "artifact": self._known,
            "layers": "a server does not tell in what precision they compute",
            "requests": self._transports[0].form,
            "streams": f"{len(self._transports)} (a connection each)",
        }
        return Delivered(SERVED, (), notes)

    def check_inputs(self, inputs: Arrays) -> None:
        """As every session; a batch that the server does not take is not sent."""
        most = self.model.most_images
        for array in inputs.values():
            if most is not None and array.ndim and len(array) > most:
                spec = self.inputs[0]
                if array.shape[1:] == spec.shape[1:]:
                    raise BadInput(
                        f"{self.backend}: the server takes at most {most} images in a request, not"
                        f" {len(array)}",
                        hint="run smaller batches, or serve it with a larger max_batch_size",
                    )
        super().check_inputs(inputs)

    def close(self) -> None:
        """Close all connections. The server goes on."""
        super().close()
        self._close_all()

    def _bind(self, inputs: Arrays) -> Bound:
        return V2Bound(self, {name: np.array(array) for name, array in inputs.items()})

    def _request(self, index: int, inputs: Arrays) -> dict[str, NDArray[Any]]:
        self.check_inputs(inputs)
        arrays = self._transports[index].infer(inputs, self._names)
        self._sent[index] += 1
        count = len(next(iter(inputs.values())))
        for spec in self.outputs:
            array = arrays.get(spec.name)
            want = (count, *spec.shape[1:])
            if array is None:
                got = ", ".join(map(repr, arrays)) or "no output"
                raise SessionFailed(f"{self.backend}: the server sent {got}, not {spec.name!r}")
            if (
                array.dtype != numpy_dtype(spec.dtype)
                or len(array.shape) != len(want)
                or any(size not in (None, got) for size, got in zip(want, array.shape, strict=True))
            ):
                raise SessionFailed(
                    f"{self.backend}: the server sent output {spec.name!r} as {array.dtype} of"
                    f" shape {array.shape}, want {spec.dtype} of {want}"
                )
        return {name: arrays[name] for name in self._names}

    def _refuse_closed(self) -> None:
        if self._closed:
            raise SessionFailed(f"{self.backend}: the session is closed")

    def _close_all(self) -> None:
        for transport in self._transports:
            transport.close()


class V2Bound(Bound):
    """An input that is sent again and again.

    Args:
        session: sends it.
        inputs: owned by this.
    """

    def __init__(self, session: V2Session, inputs: Arrays) -> None:
        super().__init__(session.backend)
        self._session, self._inputs = session, inputs
        self._last = session.run(inputs)

    def _launch(self) -> None:
        self._last = self._session.run(self._inputs)

    def _outputs(self) -> dict[str, NDArray[Any]]:
        return {name: array.copy() for name, array in self._last.items()}

    def _drop(self) -> None:
        self._inputs, self._last = {}, {}


def _connected(address: Address, infer_s: float) -> Transport:
    """A connection; gRPC's library is loaded only if it is used.

    Raises:
        MissingRequirement: it is not installed.
    """
    if address.scheme != "grpc":
        return HttpTransport(address, infer_s)
    try:
        from .grpc_transport import GrpcTransport
    except ImportError as exc:
        raise MissingRequirement(
            f"a URL with grpc needs the Python package tritonclient ({exc})",
            hint="pip install 'resnext-toolkit[triton]', or use the server's HTTP port",
        ) from exc
    return GrpcTransport(address, infer_s)


def _counters(statistics: Statistics, sent: int) -> Counters:
    total = Counters(sent=sent)
    for version in statistics.model_stats:
        times = version.inference_stats
        total += Counters(
            requests=times.success.count,
            images=version.inference_count,
            executions=version.execution_count,
            cached=times.cache_hit.count,
            server_ns=times.success.ns,
            queue_ns=times.queue.ns,
            input_ns=times.compute_input.ns,
            infer_ns=times.compute_infer.ns,
            output_ns=times.compute_output.ns,
        )
    return total
