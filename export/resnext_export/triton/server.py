"""A Triton server on this machine, on loopback addresses only, for as long as a block runs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from resnext.errors import GateFailed, NeverReturned
from resnext.findings import Finding
from resnext.storage import scratch_folder

from .environment import Installation
from .server_log import failures, last_line, port_taken
from .stand_in import Runner, backends_for

_LOOPBACK = "127.0.0.1"
#: Seconds until all models must be ready, and from SIGTERM until the server must have ended.
_READY_S, _STOP_S = 120.0, 20.0
_POLL_S = 0.02
#: Other processes may take a free port before the server does.
_TRIES = 3
#: Shared memory of Python models.
_SHARED = Path("/dev/shm")
#: Becomes the program that it is given; the kernel ends that when this process ends, however.
_WITH_PARENT = (
    "import ctypes, os, signal, sys\n"
    "parent = int(sys.argv[1])\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "if os.getppid() == parent:\n"
    "    os.execv(sys.argv[2], sys.argv[2:])\n"
)

_log = logging.getLogger("resnext.triton")


class RepositoryRefused(GateFailed):
    """The server does not load a repository.

    Args:
        findings: one for each model, or for the server as a whole.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{it.where}: {it.message}" for it in self.findings))


@dataclass(frozen=True)
class Server:
    """A running server, all of whose models are ready.

    Attributes:
        http: address of its HTTP service, for example ``http://127.0.0.1:8000``.
        grpc: address of its gRPC service, for example ``grpc://127.0.0.1:8001``.
        title: for example ``tritonserver 2.51.0``.
        backends: what runs the models.
        warmed: names of the warm-up samples that ran, by model.
    """

    http: str
    grpc: str
    title: str
    backends: tuple[Runner, ...]
    warmed: Mapping[str, tuple[str, ...]]
    _process: subprocess.Popen[bytes]
    _log: Path

    def log(self) -> str:
        """What the server has written so far."""
        return self._log.read_text(errors="replace")

    def ended(self) -> str:
        """Why it is not running any more, in one line; "" if it is."""
        code = self._process.poll()
        if code is None:
            return ""
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended ({code})"
        return f"the server {how}; the last line of its log: {last_line(self.log())}"


@contextmanager
def served(
    repository: Path,
    backends: Sequence[str],
    installation: Installation,
    *,
    models: Sequence[str] | None = None,
    ready_s: float = _READY_S,
    stop_s: float = _STOP_S,
) -> Iterator[Server]:
    """Start a server, wait until all models of ``repository`` are ready, and stop it in the end.

    Nothing of it is left: no process, shared memory or temporary file.

    Args:
        repository: a model repository.
        backends: names of the backends that its models need.
        installation: the server.
        models: names of those to load; all by default.
        ready_s: seconds until it must be ready.
        stop_s: seconds from SIGTERM until it must have ended; then it is killed.

    Raises:
        RepositoryRefused: it does not load a model; says why.
        NeverReturned: it is not ready in time.
    """
    with scratch_folder() as folder:
        log, shelf, root = folder / "server.log", folder / "backends", folder / "models"
        shelf.mkdir()
        # The Python backend hands paths to a shell, unquoted.
        root.symlink_to(repository.resolve())
        found = tuple(backends_for(backends, installation, shelf))
        command = [
            str(installation.binary),
            f"--model-repository={root}",
            *([f"--backend-directory={shelf}"] if installation.stub is not None else []),
            "--exit-on-error=true",
            "--allow-metrics=false",
            # says which warm-up samples run; turned down as soon as it is ready
            "--log-verbose=1",
            # so that its files can be told from those of other servers
            f"--backend-config=python,shm-region-prefix-name={folder.name}-",
            *([] if models is None else ["--model-control-mode=explicit"]),
            *(f"--load-model={name}" for name in models or ()),
        ]
        try:
            for attempt in range(_TRIES):
                ports = free_ports(2)
                with _started([*command, *_addresses(ports)], installation, log, stop_s) as process:
                    reason = _wait_until_ready(process, ports[0], log, ready_s)
                    if reason and attempt + 1 < _TRIES and port_taken(log.read_text()):
                        continue
                    if reason:
                        raise RepositoryRefused(failures(log.read_text(errors="replace"), reason))
                    yield _server(process, ports, found, log)
                    return
        finally:
            for path in _SHARED.glob(f"{folder.name}-*"):
                path.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind((_LOOPBACK, 0))
        return [opened.getsockname()[1] for opened in sockets]


def _addresses(ports: Sequence[int]) -> list[str]:
    words = []
    for service, port in zip(("http", "grpc"), ports, strict=True):
        words += [f"--{service}-address={_LOOPBACK}", f"--{service}-port={port}"]
    return words


@contextmanager
def _started(
    command: Sequence[str], installation: Installation, log: Path, stop_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, in a session of its own, so that Ctrl-C does not reach it first and
    what it starts can be ended with it.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WITH_PARENT, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=installation.environ(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process, stop_s)


def _stop(process: subprocess.Popen[bytes], stop_s: float) -> None:
    try:
        process.terminate()
        try:
            process.wait(stop_s)
        except subprocess.TimeoutExpired:
            _log.warning(f"the Triton server did not end {stop_s:g} s after SIGTERM; it was killed")
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # the programs of its models, too
        process.wait()


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, log: Path, ready_s: float
) -> str:
    """Why the server has ended before it was ready, or "" if it is ready.

    Raises:
        NeverReturned: neither in time.
    """
    until = time.monotonic() + ready_s
    while (code := process.poll()) is None:
        # its own word first, since another server may have the port
        if f"Started HTTPService at {_LOOPBACK}:{port}" in log.read_text(errors="replace"):
            with suppress(OSError):
                _ask(f"http://{_LOOPBACK}:{port}/v2/health/ready")
                return ""
        if time.monotonic() > until:
            raise NeverReturned(
                f"the Triton server was not ready in {ready_s:g} s, and was ended; the last line of"
                f" its log: {last_line(log.read_text(errors='replace'))}"
            )
        time.sleep(_POLL_S)
    return f"the server ended with exit code {code}"


def _server(
    process: subprocess.Popen[bytes], ports: Sequence[int], found: tuple[Runner, ...], log: Path
) -> Server:
    http, grpc = (
        f"{scheme}://{_LOOPBACK}:{port}"
        for scheme, port in zip(("http", "grpc"), ports, strict=True)
    )
    told = json.loads(_ask(f"{http}/v2"))
    _ask(f"{http}/v2/logging", {"log_verbose_level": 0})
    warmed = _warmed(log.read_text(errors="replace"))
    return Server(http, grpc, f"tritonserver {told['version']}", found, warmed, process, log)


def _warmed(log: str) -> dict[str, tuple[str, ...]]:
    """Names of the warm-up samples that ran, by model."""
    ran: dict[str, dict[str, None]] = {}
    for model, sample in re.findall(r"model '([^']+)'.*warmup sample '([^']*)'", log):
        ran.setdefault(model, {})[sample] = None
    return {model: tuple(samples) for model, samples in ran.items()}


def _ask(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=5) as answer:
        content: bytes = answer.read()
    return content
