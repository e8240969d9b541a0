"""In a worker: one group in a fresh process of ``resnext-bench``."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from resnext.cluster.worker import beat
from resnext.errors import SessionFailed
from resnext.readers.files import MOST_JSON, read_file
from resnext.storage import scratch_folder

#: Starts the command with this process's module path; it ends with this process.
_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).splitlines();"
    "from resnext.machine.parent import end_with_parent; end_with_parent();"
    "from resnext_bench.cli.bench import main; main(prog_name='resnext-bench')"
)
#: Exit codes of a command that has measured: all is valid, or its rows say what is not.
_MEASURED = (0, 1, 3, 4)
#: The run's file, in an empty folder.
_RUN = "run.json"


def runner(planned: Sequence[str], *arrived: Path) -> Callable[[Sequence[str]], bytes]:
    """A worker that runs groups.

    Args:
        planned: paths as the arguments of groups name them.
        *arrived: where these are on this machine.
    """
    paths = dict(zip(planned, map(str, arrived), strict=True))
    return lambda arguments: run_group([paths.get(word, word) for word in arguments])


def run_group(arguments: Sequence[str]) -> bytes:
    """Run ``resnext-bench`` with ``arguments``; every line of its progress is a sign of life.

    Returns:
        The run, as JSON.

    Raises:
        SessionFailed: it died, or ended without a run.
    """
    with scratch_folder() as scratch, tempfile.TemporaryDirectory(dir=scratch) as folder:
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-c",
                _START,
                "\n".join(_module_path()),
                *arguments,
                "--json",
                _RUN,
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        last = "no message"
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                if line.strip():
                    last = line.strip()
                    beat(re.sub(r"^[\d.]+ s\s+", "", last))
        code = process.wait()
        written = Path(folder, _RUN)
        if code in _MEASURED and written.is_file():
            return read_file(written, MOST_JSON)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise SessionFailed(f"its process ended ({how}): {last.removeprefix('error: ')[:300]}")


def _module_path() -> list[str]:
    """This process's module path, without the packages that Ray puts before the installed ones."""
    ray = getattr(sys.modules.get("ray"), "__file__", None)
    return [
        one for one in sys.path if ray is None or not Path(one).is_relative_to(Path(ray).parent)
    ]
