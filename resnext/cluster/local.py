"""A crew of processes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from typing_extensions import Self

from resnext.errors import BadInput, UsageError, first_line

from .crew import Answer, Beat, Ended, Event, Ready
from .worker import error_of

#: Starts a worker with the parent's own module path, and without the parent's main module.
_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).splitlines();"
    "from resnext.cluster.local_worker import main; main(int(sys.argv[1]))"
)
#: Name of this machine among places.
HERE = "this machine"


class LocalCrew:
    """Processes, each with a worker that ``factory`` makes. One that dies is noticed and replaced.

    Args:
        count: processes.
        factory: ``module:function`` of the function that makes a worker in its process: a callable
            that takes a unit's payload and returns its receipt.
        args: of the factory; can be pickled. A `Parcel` among them is checked, and given to the
            factory as its path.
        environment: variables that the processes have besides this one's.
        depth: units that a worker does at once, each on a thread, if it overlaps them.
    """

    def __init__(
        self,
        count: int,
        factory: str,
        args: tuple[Any, ...] = (),
        *,
        environment: Mapping[str, str] | None = None,
        depth: int = 1,
    ) -> None:
        if count < 1:
            raise UsageError(f"{count} workers; there must be at least 1")
        self.depth = depth
        self._slots = {f"worker {number}": HERE for number in range(1, count + 1)}
        self._start = (factory, args, depth)
        self._environment = environment
        self._processes: dict[str, _Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for slot in list(self._processes):
            self.stop(slot)

    def slots(self) -> Mapping[str, str]:
        """One for each process."""
        return self._slots

    def start(self, slot: str) -> None:
        """Start the process of ``slot``."""
        self._processes[slot] = process = _Process(self._environment)
        process.send(self._start)

    def give(self, slot: str, id: str, payload: Any) -> None:
        """Send a unit to the process of ``slot``."""
        self._processes[slot].send((id, payload))

    def stop(self, slot: str) -> None:
        """Kill the process of ``slot``."""
        self._processes.pop(slot).close()

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """What processes say next."""
        slots = {process.link: slot for slot, process in self._processes.items()}
        return [self._said(slots[link]) for link in wait(slots, timeout_s)]  # type: ignore[index]

    def missing(self) -> str:
        """Nothing: processes can always be had."""
        return ""

    def _said(self, slot: str) -> Event:
        process = self._processes[slot]
        try:
            kind, *rest = process.link.recv()
        except (EOFError, OSError):
            reason = process.death()
            self.stop(slot)
            return Ended(slot, reason)
        except Exception as exc:  # a receipt of a class that cannot be made here
            self.stop(slot)
            return Ended(slot, f"its answer cannot be read: {first_line(exc)}")
        if kind == "ready":
            return Ready(slot)
        if kind == "beat":
            return Beat(slot, rest[0])
        if kind == "refused":
            self.stop(slot)
            error = error_of(rest[0])
            return Ended(slot, str(error), error)
        id, receipt, failure = rest
        return Answer(slot, id, receipt, failure and error_of(failure))


class _Process:
    """A process with a connection to it."""

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        ours, theirs = socket.socketpair()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        try:
            # A session of its own, so that Ctrl-C reaches the parent alone, which ends it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, "\n".join(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            self._output.close()
            raise
        finally:
            theirs.close()
        self.link: Connection[Any, Any] = Connection(ours.detach())

    def send(self, message: Any) -> None:
        """Send ``message``; a process that has died is noticed when it is listened to.

        Raises:
            BadInput: it cannot be pickled.
        """
        try:
            self.link.send(message)
        except OSError:
            pass
        except Exception as exc:
            raise BadInput(f"cannot send a unit to a worker: {first_line(exc)}") from exc

    def death(self) -> str:
        """Why the process has ended: its signal or exit code, and the last line of its output."""
        code = self._process.wait()
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").split("\n")
        last = next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"its process died ({how})" + (f": {last}" if last else "")

    def close(self) -> None:
        """End the process and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.link.close()
        self._output.close()
