"""Standard streams that are closed, full or without a reader; signals to a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXPORT = [sys.executable, "-m", "resnext_export.cli.export"]
LIST = [*EXPORT, "--list-models"]


def shell(command: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, whose redirections can close a stream."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def has_ended(process: int) -> bool:
    """Whether a process has ended within five seconds; nobody may have waited for it."""
    stat = Path(f"/proc/{process}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "command", [LIST, [*LIST, "--json", "-"], [*EXPORT, "--help"], [*EXPORT, "inspect", "nowhere"]]
)
def test_a_closed_stdout_is_refused_in_one_line(command: list[str]) -> None:
    done = shell(command, ">&-")
    assert done.returncode == 3
    assert done.stderr == "error: stdout is closed; redirect it to a file or to /dev/null\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "command", [LIST, [*LIST, "--json", "-"], [*EXPORT, "--help"], [*EXPORT, "--version"]]
)
def test_a_full_stdout_is_one_line(command: list[str]) -> None:
    done = shell(command, ">/dev/full")
    assert done.returncode == 3
    assert done.stderr.startswith("error: cannot write: No space left on device; make room")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [LIST, [*LIST, "--json", "-"], [*EXPORT, "--help"]])
def test_a_reader_that_has_gone_is_silent_and_no_success(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode in (1, 141)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("redirection", "arguments", "code"),
    [
        ("2>&-", ["--no-such-option"], 2),
        ("2>/dev/full", ["--no-such-option"], 2),
        ("2>/dev/full", ["inspect", "nowhere"], 4),
    ],
)
def test_without_stderr_the_exit_code_still_tells(
    redirection: str, arguments: list[str], code: int
) -> None:
    assert shell([*EXPORT, *arguments], redirection).returncode == code


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    """Or what a library writes to stderr would end up in it."""
    script = (
        "import os, sys, click\n"
        "from resnext.cli.sections import SectionedCommand\n"
        "@click.command(cls=SectionedCommand)\n"
        "def main():\n"
        "    with open('file', 'w') as file:\n"
        "        os.write(2, b'noise of a library')\n"
        "        os.read(0, 1)\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- 2>&-', "sh", sys.executable, "-c", script],
        cwd=tmp_path,
        check=False,
        env=environment,
    )
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_an_interruption_ends_a_process_that_was_just_started() -> None:
    """Between its start and the moment when `subprocess` would stop it."""
    script = (
        "import click, os, signal, subprocess, sys\n"
        "from resnext.cli.app import guarded\n"
        "@click.command()\n"
        "@guarded\n"
        "def main():\n"
        "    print(subprocess.Popen(['sleep', '100'], stdout=2).pid, flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "earlier = subprocess.Popen(['sleep', '100'])\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert earlier.poll() is None\n"
        "    earlier.kill()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing half-written was left\n")
    assert has_ended(int(done.stdout))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_a_library_swallowed_is_still_one(number: signal.Signals) -> None:
    script = (
        "import click, os, signal, sys\n"
        "from resnext.cli.app import guarded\n"
        "@click.command()\n"
        "@guarded\n"
        "def main():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        for _ in range(1000): pass\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing half-written was left\n")


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_processes_that_a_command_started(
    number: signal.Signals, tmp_path: Path
) -> None:
    """A compiler in the midst of its work, for one."""
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 100\n")
    compiler.chmod(0o700)
    environment = {
        **os.environ,
        "CXX": str(compiler),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [*EXPORT, "--format", "pt2", "--weights", "digits", "--output", str(tmp_path / "out")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (130, "interrupted; nothing half-written was left\n")
    assert has_ended(int((tmp_path / "pid").read_text()))
    left = {path.name for path in tmp_path.iterdir()}
    left -= {name for name in left if name.startswith("torchinductor")}  # PyTorch's, for good
    assert left == {"compiler", "pid"}
