"""Runs a tool to its end, or ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from resnext.errors import SessionFailed, first_line

#: Seconds that a tool may take to load and compile, above the time that it is to measure.
STARTUP_S = 300.0
#: Length of a tool's last line in a message.
_LONGEST = 200


def run_tool(name: str, command: Sequence[str], measured_s: float, folder: Path) -> str:
    """The output of ``command``, stdout and stderr together. Its CPU time is that of a finished
    child afterwards.

    Args:
        name: of the tool, for messages.
        command: program and arguments.
        measured_s: seconds that it is to measure.
        folder: where it runs.

    Raises:
        SessionFailed: it does not start, fails, is killed, or does not end in time.
    """
    limit = STARTUP_S + 2 * measured_s
    with _without_telemetry() as environment:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        except OSError as exc:
            raise SessionFailed(f"{name} does not start: {exc.strerror}") from exc
        try:
            output, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise SessionFailed(
                f"{name} did not end within {limit:.0f} s and was stopped",
                hint="run it by hand to see why",
            ) from None
        finally:
            if child.poll() is None:  # with everything that it started
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
    if child.returncode < 0:
        number = -child.returncode
        raise SessionFailed(f"{name} was killed by signal {number} ({signal.strsignal(number)})")
    if child.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        last = first_line(lines[-1][:_LONGEST]) if lines else "it printed nothing"
        raise SessionFailed(f"{name} failed with exit code {child.returncode}: {last}")
    return output


@contextmanager
def _without_telemetry() -> Iterator[dict[str, str]]:
    """This process's environment, in which OpenVINO's telemetry package cannot be imported."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, "openvino_telemetry.py")
        module.write_text("raise ImportError('no telemetry')\n", encoding="utf-8")
        # The tool runs in another folder than this process.
        own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        paths = [folder, *(str(Path(path).absolute()) for path in own)]
        yield os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
