"""The protocol over HTTP: one connection that is kept alive, tensors as bytes where the server can.

A server with the binary tensor extension gets and sends plain bytes after a JSON header; any other
gets JSON numbers, which cost it and us more than the network does.
"""

from __future__ import annotations

import json
import ssl
import time
from contextlib import suppress
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
)
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ResnextError, SessionFailed
from resnext.runtimes.address import Address
from resnext.runtimes.session import Arrays

from .answers import Indexed, Metadata, ModelConfig, ServerMetadata, Statistics, read
from .tensors import array_of, datatype
from .transport import ASK_S, CONNECT_S, INFER_S, not_there, said, too_late, went_away

_HEADER_LENGTH = "Inference-Header-Content-Length"
_BINARY = "binary_tensor_data"
#: Largest answer that is read: no classifier's is larger.
_MOST_BYTES = 256 << 20
_CHUNK = 1 << 20
#: What a server answers to a path that it does not know.
_UNKNOWN = (400, 404, 405, 501)
#: What a kept connection ends with if the server closed it between two requests.
_STALE = (ConnectionResetError, BrokenPipeError)


class HttpTransport:
    """A connection over HTTP or HTTPS.

    Args:
        address: of the model.
        infer_s: longest wait for an inference, seconds.
    """

    def __init__(self, address: Address, infer_s: float = INFER_S) -> None:
        self._address, self._infer_s = address, infer_s
        self._connection: HTTPConnection | None = None
        self._binary: bool | None = None
        version = f"/versions/{address.version}" if address.version else ""
        self._model = f"/v2/models/{quote(address.model)}{version}"

    @property
    def form(self) -> str:
        """How tensors travel."""
        return "HTTP, binary tensors" if self._has_binary() else "HTTP, tensors as JSON numbers"

    def ready(self) -> str:
        """ "" if the model is ready."""
        status, body, _ = self._send("GET", f"{self._model}/ready", ASK_S)
        if status != 200:
            return self._reason(body) or f"HTTP {status}"
        with suppress(ValueError, AttributeError):  # KServe says it in the body
            if json.loads(body).get("ready") is False:
                return "not ready"
        return ""

    def server(self) -> ServerMetadata:
        """The server itself."""
        return read(ServerMetadata, self._asked("GET", "/v2"), self._address.server)

    def index(self) -> tuple[Indexed, ...] | None:
        """The models of the server."""
        answer = self._asked("POST", "/v2/repository/index", optional=True)
        if not isinstance(answer, list):
            return None
        return tuple(read(Indexed, entry, self._address.server) for entry in answer)

    def metadata(self) -> Metadata:
        """What the model takes and gives."""
        return read(Metadata, self._asked("GET", self._model), self._address.server)

    def config(self) -> ModelConfig | None:
        """Triton's configuration."""
        answer = self._asked("GET", f"{self._model}/config", optional=True)
        return None if answer is None else read(ModelConfig, answer, self._address.server)

    def statistics(self) -> Statistics | None:
        """Triton's counters."""
        answer = self._asked("GET", f"{self._model}/stats", optional=True)
        return None if answer is None else read(Statistics, answer, self._address.server)

    def infer(self, inputs: Arrays, outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """One inference."""
        binary = self._has_binary()
        body, headers = _request(inputs, outputs, binary=binary)
        status, answer, length = self._send(
            "POST", f"{self._model}/infer", self._infer_s, body, headers
        )
        if status != 200:
            raise said(self._address.server, f"HTTP {status}", self._reason(answer))
        try:
            return self._arrays(answer, length)
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            if isinstance(exc, ResnextError):
                raise
            raise SessionFailed(
                f"{self._address.server} answered with something else than the outputs of"
                f" {self._address.model}: {type(exc).__name__} {str(exc)[:100]}"
            ) from exc

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _has_binary(self) -> bool:
        if self._binary is None:
            self._binary = _BINARY in self.server().extensions
        return self._binary

    def _arrays(self, answer: bytes, length: int | None) -> dict[str, NDArray[Any]]:
        header = json.loads(answer if length is None else answer[:length])
        at, arrays = length or len(answer), {}
        rest = memoryview(answer)
        for output in header["outputs"]:
            size = (output.get("parameters") or {}).get("binary_data_size")
            if size is None:
                data: Any = output["data"]
            else:
                data, at = rest[at : at + int(size)], at + int(size)
            name = str(output["name"])
            arrays[name] = array_of(
                name, str(output["datatype"]), output["shape"], data, self._address.server
            )
        return arrays

    def _asked(self, method: str, path: str, *, optional: bool = False) -> Any:
        """The decoded answer; None if ``optional`` and the server does not know the path."""
        status, body, _ = self._send(method, path, ASK_S, b"{}" if method == "POST" else None)
        if status in _UNKNOWN and optional:
            return None
        if status != 200:
            raise said(self._address.server, f"HTTP {status}", self._reason(body))
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise SessionFailed(
                f"{self._address.server} does not speak the V2 protocol: {path} gives something"
                " else than JSON",
                hint="name the server's HTTP port with http, its gRPC port with grpc",
            ) from exc

    def _send(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, int | None]:
        """Status, body and length of the JSON header of an answer.

        A kept connection that the server has closed since is opened again, once: it answers no
        request, and an inference changes nothing.
        """
        ends = time.monotonic() + timeout_s
        kept = self._connection is not None
        try:
            return self._exchange(method, path, ends, body, headers)
        except _STALE as exc:
            self.close()
            if not kept:
                raise went_away(self._address.server, exc) from exc
        except TimeoutError as exc:
            self.close()
            raise too_late(self._address.server, timeout_s) from exc
        except BadStatusLine as exc:
            self.close()
            raise SessionFailed(
                f"{self._address.server} answers with something else than HTTP",
                hint="name the server's HTTP port with http, its gRPC port with grpc",
            ) from exc
        except (OSError, HTTPException) as exc:
            self.close()
            raise went_away(self._address.server, exc) from exc
        return self._send(method, path, ends - time.monotonic(), body, headers)

    def _exchange(
        self,
        method: str,
        path: str,
        ends: float,
        body: bytes | None,
        headers: dict[str, str] | None,
    ) -> tuple[int, bytes, int | None]:
        connection = self._connection or self._connected()
        self._wait_until(connection, ends)
        connection.request(method, self._address.prefix + path, body, headers or {})
        response = connection.getresponse()
        content = self._content(connection, response, ends)
        if response.will_close:
            self.close()
        length = response.getheader(_HEADER_LENGTH)
        return response.status, content, int(length) if length and length.isdigit() else None

    def _content(self, connection: HTTPConnection, response: HTTPResponse, ends: float) -> bytes:
        """The body, within the time: a server that sends a byte a second is late as well."""
        parts, size = [], 0
        while part := response.read1(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise HTTPException(f"an answer of more than {_MOST_BYTES >> 20} MiB")
            self._wait_until(connection, ends)
        if response.length:
            raise HTTPException(f"{response.length} bytes of the answer are missing")
        response.close()  # else the connection takes no further request
        return b"".join(parts)

    def _wait_until(self, connection: HTTPConnection, ends: float) -> None:
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:  # None once an answer has closed it
            connection.sock.settimeout(left)

    def _connected(self) -> HTTPConnection:
        where = self._address
        connection = (
            HTTPConnection(where.host, where.port, timeout=CONNECT_S)
            if where.scheme == "http"
            else HTTPSConnection(
                where.host, where.port, timeout=CONNECT_S, context=ssl.create_default_context()
            )
        )
        try:
            connection.connect()
        except OSError as exc:  # a time-out and TLS errors too
            connection.close()
            raise not_there(where.server, exc) from exc
        self._connection = connection
        return connection

    def _reason(self, body: bytes) -> str:
        """What the server says of an error."""
        try:
            reason = json.loads(body)
        except (ValueError, RecursionError):
            return body[:500].decode(errors="replace")
        if isinstance(reason, dict):
            reason = reason.get("error") or reason.get("detail") or reason
        return str(reason)


def _request(
    inputs: Arrays, outputs: tuple[str, ...], *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference."""
    entries: list[dict[str, Any]] = []
    tail = []
    for name, array in inputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype(array),
        }
        if binary:
            data = np.ascontiguousarray(array).tobytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    wanted: list[dict[str, Any]] = [{"name": name} for name in outputs]
    if binary:
        for each in wanted:
            each["parameters"] = {"binary_data": True}
    header = json.dumps({"inputs": entries, "outputs": wanted}).encode()
    if not binary:
        return header, {"Content-Type": "application/json"}
    return b"".join([header, *tail]), {
        "Content-Type": "application/octet-stream",
        _HEADER_LENGTH: str(len(header)),
    }
