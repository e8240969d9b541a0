"""Work in a child process, because a library may crash or hang: the report goes on without it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Protocol

#: Starts `main` of a module in this interpreter, with the parent's own module path.
_START = (
    "import importlib, json, os, sys\n"
    "sys.path[:] = json.loads(sys.argv.pop(1))\n"
    "replies = os.fdopen(int(sys.argv.pop(1)), 'w', buffering=1)\n"
    "module = importlib.import_module(sys.argv.pop(1))\n"
    "for answer in module.answers(json.loads(sys.argv[1])):\n"
    "    replies.write(json.dumps(answer) + '\\n')\n"
)


class Died(Exception):
    """The child ended, or was ended, before it answered; the message continues its name."""

    def __init__(self, message: str, signal_name: str = "") -> None:
        super().__init__(message)
        self.signal = signal_name


class Examine(Protocol):
    """Asks a module about each of several names; `examine`, or a test's stand-in."""

    def __call__(
        self,
        module: str,
        names: Sequence[str],
        /,
        *,
        timeout_s: float,
        environ: Mapping[str, str] = ...,
    ) -> Iterator[tuple[str, Any]]:
        """The answers, see `examine`."""


def examine(
    module: str,
    names: Sequence[str],
    *,
    timeout_s: float,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[tuple[str, Any]]:
    """Ask ``module`` about each of ``names``, in a child process.

    If the child dies or hangs, the name in progress is to blame, and the next ones go to a new
    child.

    Args:
        module: dotted name; its function ``answers(names)`` yields one answer for each name, in
            order, which passes as JSON.
        names: what to ask about.
        timeout_s: how long one answer may take.
        environ: environment of the child.

    Yields:
        Each name with its answer, or with a `Died`.
    """
    rest = list(names)
    while rest:
        with _Child(module, rest, environ) as child:
            while rest:
                try:
                    answer = child.answer(timeout_s)
                except Died as died:
                    yield rest.pop(0), died
                    break
                yield rest.pop(0), answer


class _Child:
    def __init__(self, module: str, names: Sequence[str], environ: Mapping[str, str]) -> None:
        read, write = os.pipe()
        self._replies: BinaryIO = os.fdopen(read, "rb", buffering=0)
        self._buffer = b""
        path = json.dumps(sys.path)
        command = [sys.executable, "-I", "-c", _START, path, str(write), module]
        try:
            # A session of its own, so that what it starts can be ended with it.
            self._process = subprocess.Popen(
                [*command, json.dumps(names)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(write,),
                env=dict(environ),
                start_new_session=True,
            )
        finally:
            os.close(write)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._replies.close()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def answer(self, timeout_s: float) -> Any:
        """The next answer.

        Raises:
            Died: there is none.
        """
        assert self._process.stderr is not None
        until = time.monotonic() + timeout_s
        said = b""
        streams: list[Any] = [self._replies, self._process.stderr]
        while b"\n" not in self._buffer:
            ready, _, _ = select.select(streams, [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise Died(f"gave no answer for {timeout_s:.0f} s and was ended")
            if self._process.stderr in ready:
                part = os.read(self._process.stderr.fileno(), 1 << 16)
                said = (said + part)[-4096:]
                if not part:
                    streams.remove(self._process.stderr)
            if self._replies in ready:
                part = os.read(self._replies.fileno(), 1 << 16)
                if not part:
                    raise self._died(said)
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _died(self, said: bytes) -> Died:
        assert self._process.stderr is not None
        code = self._process.wait()
        with suppress(OSError):
            os.set_blocking(self._process.stderr.fileno(), False)
            said += self._process.stderr.read() or b""
        if code < 0:
            name = (
                signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
            )
            return Died(f"killed its process ({name})", name)
        lines = said.decode(errors="replace").strip().splitlines()
        reason = f": {lines[-1].strip()[:200]}" if lines else ""
        return Died(f"ended its process with exit code {code}{reason}")


#: What a signal usually means, and what to do.
SIGNALS: Mapping[str, str] = {
    "SIGILL": "the processor lacks instructions that it was built for: install a build for this"
    " processor",
    "SIGKILL": "probably out of memory: end other programs, or give the container more",
    "SIGSEGV": "install the tested versions again",
    "SIGBUS": "install its package again: a file of it is cut short, or the disk is full",
    "SIGABRT": "install the tested versions again",
}


def died_hint(died: Died, package: str = "") -> str:
    """The line for a child that died."""
    hint = SIGNALS.get(died.signal, "install the tested versions again")
    return f"{hint}: pip install {package}" if package and "again" in hint else hint
