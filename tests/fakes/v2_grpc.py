"""The same server as `fakes.v2_server`, over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

from resnext.runtimes.v2.tensors import DTYPES, array_of, datatype

from .v2_server import Refused, V2Server


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped
    """Answers from a `V2Server`."""

    def __init__(self, server: V2Server) -> None:
        self._server = server

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC names it
        """Whether it is the model's name, and its time has come."""
        if request.name != self._server.name or request.version not in ("", "1"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
        return service_pb2.ModelReadyResponse(ready=self._server.faulty != "not-ready")

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # gRPC names it
        """The server."""
        return service_pb2.ServerMetadataResponse(name="fake", version="1.0")

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # gRPC names it
        """What the model takes and gives."""
        return ParseDict(self._server.metadata(), service_pb2.ModelMetadataResponse())

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # gRPC names it
        """Triton's alone."""
        self._triton(context)
        config = self._server.config()
        return ParseDict({"config": config}, service_pb2.ModelConfigResponse())

    def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # gRPC names it
        """Triton's alone."""
        self._triton(context)
        return ParseDict(self._server.statistics(), service_pb2.ModelStatisticsResponse())

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # gRPC names it
        """The list of models."""
        models = [{"name": self._server.name, "version": "1", "state": "READY"}, {"name": "other"}]
        return ParseDict({"models": models}, service_pb2.RepositoryIndexResponse())

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC names it
        """An inference; a bare server answers with numbers instead of bytes."""
        server, tensor = self._server, request.inputs[0]
        images = array_of(
            tensor.name, tensor.datatype, tensor.shape, request.raw_input_contents[0], "the client"
        )
        try:
            logits = server.infer(images)
        except Refused as exc:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        if server.faulty == "slow":
            server.released.wait(10)
        if server.faulty == "dies":
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        kind = service_pb2.ModelInferResponse
        output = kind.InferOutputTensor(
            name=server.manifest.outputs[0].name,
            datatype=datatype(logits),
            shape=logits.shape,
        )
        if not server.triton and DTYPES[output.datatype] == "float32":
            output.contents.fp32_contents.extend(logits.ravel().tolist())
            return kind(outputs=[output])
        data = np.ascontiguousarray(logits).tobytes()
        if server.faulty == "short":
            data = data[:-4]
        return kind(outputs=[output], raw_output_contents=[data])

    def _triton(self, context: Any) -> None:
        if not self._server.triton:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")


@contextmanager
def serving_grpc(server: V2Server) -> Iterator[V2Server]:
    """``server`` on the loopback address, over gRPC."""
    with ThreadPoolExecutor(8) as pool:
        channel = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(server), channel)
        port = channel.add_insecure_port("127.0.0.1:0")
        channel.start()
        server.url = f"grpc://127.0.0.1:{port}/{server.name}"
        try:
            yield server
        finally:
            server.released.set()
            channel.stop(None).wait()
