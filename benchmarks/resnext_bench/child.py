"""A process as its parent sees it: asked, and ended, whatever happens."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from typing_extensions import Self

from resnext import errors
from resnext.artifact.specs import Strict
from resnext.errors import BadInput, MissingRequirement, ResnextError, SessionFailed, UsageError

M = TypeVar("M", bound=BaseModel)

#: Starts a module of this environment, with the parent's own module path.
_HERE = "import sys; sys.path[:] = sys.argv.pop(1).splitlines(); from {} import main; main()"
#: How long a process may take to open a session, which may compile, seconds.
OPENING_S = 1800.0
_ENDING_S = 5.0
_READ_BYTES = 1 << 16


class Failure(Strict):
    """Why a worker ends.

    Attributes:
        kind: class of the error, of `resnext.errors`.
        message: its message.
        hint: what to do.
    """

    kind: str
    message: str
    hint: str = ""


class Child:
    """A process that is asked and answers. A context manager: at its end the process is gone.

    Args:
        name: in messages.
        module: what it runs, which gets the file descriptor for its answers as only argument.
        python: interpreter of another environment; None for this one.
        environment: variables that it has besides this process's.

    Attributes:
        started_ns: when it was started, by the monotonic clock of the machine.

    Raises:
        BadInput: there is no such interpreter.
    """

    def __init__(
        self,
        name: str,
        module: str,
        python: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._python = name, python
        self._buffer = b""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._replies, their_end = os.pipe()
        here = [sys.executable, "-I", "-c", _HERE.format(module), "\n".join(filter(None, sys.path))]
        if python is not None and python.exists():
            python = python.absolute()  # a name without a slash would be looked for in PATH alone
        there = [str(python), "-I", "-m", module]
        self.started_ns = time.monotonic_ns()
        try:
            # A session of its own, so that Ctrl-C reaches the parent alone, which ends it.
            self._process = subprocess.Popen(
                [*(here if python is None else there), str(their_end)],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=(their_end,),
                env=None if environment is None else os.environ | dict(environment),
                start_new_session=True,
            )
        except OSError as exc:
            os.close(self._replies)
            self._output.close()
            raise BadInput(
                f"cannot run {python}: {exc.strerror}", hint="name an interpreter in `python`"
            ) from exc
        finally:
            os.close(their_end)

    def close(self) -> None:
        """End the process and what it started. May be called twice."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait()
        if self._replies >= 0:
            os.close(self._replies)
            self._replies = -1
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, message: BaseModel) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; what it left to read says why
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, model: type[M], timeout_s: float) -> M:
        """The next answer.

        Raises:
            ResnextError: what the process raised, or that it died, hung or said something else.
        """
        line = self._line(timeout_s)
        try:
            return model.model_validate_json(line)
        except ValidationError:
            pass
        try:
            failure = Failure.model_validate_json(line)
        except ValidationError:
            raise self.foreign() from None
        kind = getattr(errors, failure.kind, SessionFailed)
        if not (isinstance(kind, type) and issubclass(kind, ResnextError)):
            kind = SessionFailed
        if kind is errors.UnknownName:
            kind = UsageError
        raise kind(f"{self._name}: {failure.message}", hint=failure.hint)

    def _line(self, timeout_s: float) -> bytes:
        end = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._replies], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise SessionFailed(
                    f"{self._name}: its process did not answer for {timeout_s:.0f} s",
                    hint="run it alone to see where it stops",
                )
            chunk = os.read(self._replies, _READ_BYTES)
            if not chunk:
                raise self._died()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> ResnextError:
        """Why the process has ended, from its exit code and its output."""
        try:
            code = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return SessionFailed(f"{self._name}: its process closed the connection")
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        words = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
        _, missing, module = words[-1].rpartition("No module named")
        if self._python is not None and missing:
            name = module.strip(" '\")")
            if name.startswith("resnext_bench.ab"):
                return self.other_toolkit("a toolkit that is too old for this")
            return self.other_toolkit("no toolkit" if "resnext" in name else f"no {name}")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return SessionFailed(f"{self._name}: its process died ({how}): {words[-1][:200]}")

    def foreign(self) -> SessionFailed:
        """It said something that nobody understands."""
        return SessionFailed(
            f"{self._name}: its process sent something else than an answer",
            hint="is the same toolkit installed in both environments?",
        )

    def other_toolkit(self, problem: str) -> MissingRequirement:
        """Its environment has ``problem``."""
        return MissingRequirement(
            f"{self._name}: the environment of {self._python} has {problem}",
            hint=f"{self._python} -m pip install -U 'resnext-toolkit[bench]'",
        )
