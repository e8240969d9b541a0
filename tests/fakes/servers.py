"""A real V2 server that is not Triton, for as long as a block runs: MLServer with ONNX Runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from resnext.artifact.files import Artifact
from resnext.errors import MissingRequirement
from resnext.runtimes.v2.tensors import DTYPES
from resnext_export.triton.environment import Installation, required_server
from resnext_export.triton.server import free_ports

_READY_S, _STOP_S = 60.0, 20.0
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: The model of the server: our file, whatever it takes and gives.
_MODEL = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Onnx(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload):
        inputs = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        names = [each.name for each in self._session.get_outputs()]
        arrays = self._session.run(names, inputs)
        outputs = [NumpyCodec.encode_output(*pair) for pair in zip(names, arrays)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


@dataclass(frozen=True)
class Running:
    """A server with one model.

    Attributes:
        http: URL of the model.
        grpc: the same, over gRPC.
        process: the server.
    """

    http: str
    grpc: str
    process: subprocess.Popen[bytes]


def triton_server() -> Installation:
    """A Triton server. Without one the test is skipped, or fails if ``RESNEXT_SERVER_TESTS`` is
    ``required``.
    """
    try:
        return required_server()
    except MissingRequirement as exc:
        if os.environ.get("RESNEXT_SERVER_TESTS") == "required":
            raise
        pytest.skip(str(exc))


def mlserver_program() -> Path:
    """The program ``mlserver`` of the environment for servers; skips the test in another one."""
    programs = triton_server().programs
    if programs is None:
        pytest.skip("a server of another environment")
    return programs / "mlserver"


@contextmanager
def mlserver(artifact: Artifact, folder: Path, most_images: int = 8) -> Iterator[Running]:
    """``artifact`` on MLServer with adaptive batching, on the loopback address.

    Args:
        artifact: an ONNX file.
        folder: for the server's files.
        most_images: of a batch that it forms of several requests.
    """
    program = mlserver_program()
    manifest = artifact.manifest
    http, grpc, metrics = free_ports(3)
    (folder / "served_onnx.py").write_text(_MODEL)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    tensors = {
        kind: [
            {
                "name": spec.name,
                "datatype": _NAMES[spec.dtype],
                "shape": [-1 if size is None else size for size in spec.shape],
            }
            for spec in specs
        ]
        for kind, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs))
    }
    model = {
        "name": "digits",
        "implementation": "served_onnx.Onnx",
        "max_batch_size": most_images,
        "max_batch_time": 0.01,
        "parameters": {"uri": str(artifact.path.absolute())},
        **tensors,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "start", "."],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(folder)},
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{http}/v2/models/digits/ready", folder / "log")
        yield Running(f"http://127.0.0.1:{http}/digits", f"grpc://127.0.0.1:{grpc}/digits", process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < ends:
        try:
            with urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"MLServer did not start: {log.read_text()[-2000:]}")
