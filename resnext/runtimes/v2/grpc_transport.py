"""The protocol over gRPC: one channel with a connection of its own, tensors as bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from resnext.errors import SessionFailed
from resnext.runtimes.address import Address
from resnext.runtimes.session import Arrays

from .answers import Answer, Indexed, Metadata, ModelConfig, ServerMetadata, Statistics, read
from .tensors import array_of, datatype
from .transport import ASK_S, INFER_S, not_there, said, too_late, went_away

M = TypeVar("M", bound=Answer)

_Code = grpc.StatusCode
#: What a server answers to a call that it does not know.
_UNKNOWN = (_Code.UNIMPLEMENTED, _Code.NOT_FOUND, _Code.INVALID_ARGUMENT)
#: Fields of an answer's contents by the protocol's name of the element type, of servers that send
#: numbers instead of bytes.
_CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents"}
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
    ("grpc.enable_http_proxy", 0),
)


class GrpcTransport:
    """A channel without TLS.

    Args:
        address: of the model.
        infer_s: longest wait for an inference, seconds.
    """

    form = "gRPC, binary tensors"

    def __init__(self, address: Address, infer_s: float = INFER_S) -> None:
        self._address, self._infer_s = address, infer_s
        self._channel = grpc.insecure_channel(address.target, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._names = {"name": address.model, "version": address.version}
        self._connected = False

    def ready(self) -> str:
        """ "" if the model is ready."""
        try:
            answer = self._asked("ModelReady", service_pb2.ModelReadyRequest(**self._names))
        except _Refused as exc:
            return exc.details
        return "" if answer.ready else "not ready"

    def server(self) -> ServerMetadata:
        """The server itself."""
        request = service_pb2.ServerMetadataRequest()
        return self._read(ServerMetadata, "ServerMetadata", request)

    def index(self) -> tuple[Indexed, ...] | None:
        """The models of the server."""
        answer = self._optional("RepositoryIndex", service_pb2.RepositoryIndexRequest())
        if answer is None:
            return None
        return tuple(
            Indexed(name=each.name, version=each.version, state=each.state, reason=each.reason)
            for each in answer.models
        )

    def metadata(self) -> Metadata:
        """What the model takes and gives."""
        return self._read(
            Metadata, "ModelMetadata", service_pb2.ModelMetadataRequest(**self._names)
        )

    def config(self) -> ModelConfig | None:
        """Triton's configuration."""
        answer = self._optional("ModelConfig", service_pb2.ModelConfigRequest(**self._names))
        return (
            None
            if answer is None
            else read(ModelConfig, _dict(answer.config), self._address.server)
        )

    def statistics(self) -> Statistics | None:
        """Triton's counters."""
        request = service_pb2.ModelStatisticsRequest(**self._names)
        answer = self._optional("ModelStatistics", request)
        return None if answer is None else read(Statistics, _dict(answer), self._address.server)

    def infer(self, inputs: Arrays, outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """One inference."""
        kind = service_pb2.ModelInferRequest
        request = kind(
            model_name=self._address.model,
            model_version=self._address.version,
            inputs=[
                kind.InferInputTensor(name=name, datatype=datatype(array), shape=array.shape)
                for name, array in inputs.items()
            ],
            outputs=[kind.InferRequestedOutputTensor(name=name) for name in outputs],
            raw_input_contents=[array.tobytes() for array in inputs.values()],
        )
        try:
            answer = self._asked("ModelInfer", request, self._infer_s)
        except _Refused as exc:
            raise said(self._address.server, exc.status, exc.details) from exc
        raw = answer.raw_output_contents
        if raw and len(raw) != len(answer.outputs):
            raise SessionFailed(
                f"{self._address.server} sent {len(answer.outputs)} outputs, and bytes of"
                f" {len(raw)}"
            )
        arrays = {}
        for index, output in enumerate(answer.outputs):
            data = raw[index] if raw else _elements(output)
            arrays[output.name] = array_of(
                output.name, output.datatype, output.shape, data, self._address.server
            )
        return arrays

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _read(self, kind: type[M], call: str, request: Any) -> M:
        try:
            answer = self._asked(call, request)
        except _Refused as exc:
            raise said(self._address.server, exc.status, exc.details) from exc
        return read(kind, _dict(answer), self._address.server)

    def _optional(self, call: str, request: Any) -> Any:
        try:
            return self._asked(call, request)
        except _Refused as exc:
            if exc.code in _UNKNOWN:
                return None
            raise said(self._address.server, exc.status, exc.details) from exc

    def _asked(self, call: str, request: Any, timeout_s: float = ASK_S) -> Any:
        method: Callable[..., Any] = getattr(self._stub, call)
        server = self._address.server
        try:
            answer = method(request, timeout=timeout_s)
        except grpc.RpcError as exc:
            code, details = exc.code(), exc.details() or ""
            if code == _Code.DEADLINE_EXCEEDED:
                raise too_late(server, timeout_s) from exc
            if code in (_Code.UNAVAILABLE, _Code.CANCELLED) and not _answered(details):
                lost = went_away if self._connected else not_there
                raise lost(server, details) from exc
            self._connected = True
            raise _Refused(code, details) from exc
        except ValueError as exc:  # a closed channel
            raise went_away(server, exc) from exc
        self._connected = True
        return answer


class _Refused(Exception):
    """The server answered with an error."""

    def __init__(self, code: Any, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details
        self.status = f"gRPC {code.name}"


def _answered(details: str) -> bool:
    """Whether the server itself says that something is not available: Triton does, of a model that
    is not ready.
    """
    return "Request for unknown model" in details or "is not ready" in details


def _dict(message: Any) -> dict[str, Any]:
    value: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return value


def _elements(output: Any) -> list[Any]:
    return list(getattr(output.contents, _CONTENTS.get(output.datatype, "fp32_contents")))
