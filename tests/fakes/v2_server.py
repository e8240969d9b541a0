"""A V2 server on the loopback address, in Triton's way or with the bare protocol, with faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import TensorSpec
from resnext.runtimes.v2.model import DIGEST
from resnext.runtimes.v2.tensors import DTYPES, array_of

Run = Callable[[NDArray[Any]], NDArray[Any]]
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class V2Server:
    """A model, and what goes wrong with it.

    Attributes:
        manifest: of the artifact that it claims to serve.
        run: the network.
        name: of the model.
        triton: has binary tensors, a configuration and statistics.
        max_batch: of a request.
        digest: in the configuration; None leaves it out.
        fault: planted: ``dtype``, ``short``, ``garbage``, ``not-ready``, ``slow``, ``dies``,
            ``swapped`` (rows, when two requests are batched), ``cached``, ``layout``,
            ``counts-late``, ``hangs-up`` (after each answer, without a word).
        after: answers before the fault.
        requests, images, executions: answered.
        url: of the model.
    """

    manifest: Manifest
    run: Run
    name: str = "digits"
    triton: bool = True
    max_batch: int = 8
    digest: str | None = None
    fault: str = ""
    after: int = 0
    requests: int = 0
    images: int = 0
    executions: int = 0
    url: str = ""
    paths: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _counted: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pair: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=0.02))
    _waiting: dict[int, NDArray[Any]] = field(default_factory=dict)

    @property
    def faulty(self) -> str:
        """The fault, once its time has come."""
        return self.fault if self.requests >= self.after else ""

    def metadata(self) -> dict[str, Any]:
        """What it takes and gives."""
        inputs = [_tensor(spec) for spec in self.manifest.inputs]
        if self.fault == "layout":
            n, c, h, w = inputs[0]["shape"]
            inputs[0]["shape"] = [n, h, w, c]
        if self.fault == "dtype of metadata":
            inputs[0]["datatype"] = "UINT8"
        return {
            "name": self.name,
            "platform": "onnxruntime_onnx" if self.triton else "",
            "inputs": inputs,
            "outputs": [_tensor(spec) for spec in self.manifest.outputs],
        }

    def config(self) -> dict[str, Any]:
        """Triton's configuration."""
        parameters = {} if self.digest is None else {DIGEST: {"string_value": self.digest}}
        return {
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": self.max_batch,
            "instance_group": [{"kind": "KIND_CPU", "count": 2}],
            "parameters": parameters,
            "dynamic_batching": {},
            "response_cache": {"enable": self.fault == "cached"},
        }

    def statistics(self) -> dict[str, Any]:
        """Triton's counters: of a request 100 us, 10 of them queued, 5 in, 80 infer, 5 out."""
        n = self.requests
        if self.fault == "counts-late":  # what was answered since it was asked last is missing
            n, self._counted = self._counted, n
        times = {"success": 100, "queue": 10, "compute_input": 5, "compute_infer": 80}
        stats = {key: {"count": n, "ns": n * us * 1000} for key, us in times.items()}
        stats["compute_output"] = {"count": n, "ns": n * 5000}
        stats["cache_hit"] = {"count": n if self.fault == "cached" else 0, "ns": 0}
        model = {
            "inference_count": self.images,
            "execution_count": self.executions,
            "inference_stats": stats,
        }
        return {"model_stats": [model]}

    def infer(self, images: NDArray[Any]) -> NDArray[Any]:
        """One request.

        Raises:
            Refused: as Triton refuses it.
        """
        spec = self.manifest.inputs[0]
        if images.dtype.name != spec.dtype:
            want = f"TYPE_{_NAMES[spec.dtype]}"
            raise Refused(f"inference input '{spec.name}' data-type is wrong, expected {want}")
        if images.shape[1:] != spec.shape[1:]:
            raise Refused(f"unexpected shape for input '{spec.name}' for model '{self.name}'")
        if self.triton and len(images) > self.max_batch:
            raise Refused(f"inference request batch-size must be <= {self.max_batch}")
        if self.faulty == "swapped":
            logits = self._paired(images)
        else:
            with self._lock:
                logits = self.run(images)
                self.executions += 1
        with self._lock:
            self.requests += 1
            self.images += len(images)
        return logits.astype(np.float64) if self.faulty == "dtype" else logits

    def _paired(self, images: NDArray[Any]) -> NDArray[Any]:
        """With another request as one batch, whose rows go to the wrong client; alone as it is."""
        me = threading.get_ident()
        self._waiting[me] = images
        try:
            self._pair.wait()
        except threading.BrokenBarrierError:
            with suppress(threading.BrokenBarrierError):
                self._pair.reset()
            with self._lock:
                return self.run(images)
        others = [batch for ident, batch in list(self._waiting.items()) if ident != me]
        with self._lock:
            self.executions += 1
            return self.run(others[-1] if others else images)


class Refused(Exception):
    """A request that Triton refuses with 400."""


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": _NAMES[spec.dtype], "shape": shape}


@contextmanager
def serving(server: V2Server) -> Iterator[V2Server]:
    """``server`` on the loopback address, over HTTP."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/{server.name}"
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(server: V2Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """What is asked about the model."""
            server.paths.append(self.path)
            model = f"/v2/models/{server.name}"
            if self.path == f"{model}/ready":
                ready = server.faulty != "not-ready"
                self._answer(200 if ready else 503, b"" if ready else b'{"error": "loading"}')
            elif self.path == "/v2":
                extensions = ["binary_tensor_data"] if server.triton else []
                self._json({"name": "fake", "version": "1.0", "extensions": extensions})
            elif self.path == model:
                self._json(server.metadata())
            elif self.path == f"{model}/config" and server.triton:
                self._json(server.config())
            elif self.path == f"{model}/stats" and server.triton:
                if server.faulty == "dies":
                    self._die()
                    return
                self._json(server.statistics())
            else:
                self._answer(404, b'{"error": "Not Found"}')

        def do_POST(self) -> None:
            """An inference, or the list of models."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.paths.append(self.path)
            if self.path == "/v2/repository/index":
                self._json(
                    [{"name": server.name, "version": "1", "state": "READY"}, {"name": "other"}]
                )
                return
            if self.path != f"/v2/models/{server.name}/infer":
                self._answer(404, b'{"error": "Not Found"}')
                return
            length = self.headers.get("Inference-Header-Content-Length")
            header = json.loads(body[: int(length)] if length else body)
            entry = header["inputs"][0]
            data = body[int(length) :] if length else entry["data"]
            images = array_of(entry["name"], entry["datatype"], entry["shape"], data, "the client")
            try:
                logits = server.infer(images)
            except Refused as exc:
                self._json({"error": str(exc)}, 400)
                return
            self._outputs(logits, binary=length is not None)

        def _outputs(self, logits: NDArray[Any], *, binary: bool) -> None:
            fault = server.faulty
            if fault == "garbage":
                self._answer(200, b"<html>hello</html>")
                return
            if fault == "slow":
                server.released.wait(10)
            if fault == "dies":
                self._die()
                return
            spec = server.manifest.outputs[0]
            entry: dict[str, Any] = {
                "name": spec.name,
                "datatype": _NAMES[logits.dtype.name],
                "shape": list(logits.shape),
            }
            data = logits.tobytes()
            if fault == "short":
                data = data[:-4]
            if binary:
                entry["parameters"] = {"binary_data_size": len(data)}
                header = json.dumps({"outputs": [entry]}).encode()
                more = {"Inference-Header-Content-Length": str(len(header))}
                self._answer(200, header + data, more)
            else:
                numbers = logits.ravel().tolist()
                entry["data"] = numbers[:-1] if fault == "short" else numbers
                self._json({"outputs": [entry]})

        def _die(self) -> None:
            """Close the connection in the middle of an answer."""
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nnot all")
            self.close_connection = True

        def _json(self, value: Any, status: int = 200) -> None:
            self._answer(status, json.dumps(value).encode())

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the client gave up
                self.wfile.write(body)
            if server.fault == "hangs-up":
                self.close_connection = True

    return Handler
