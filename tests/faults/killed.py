"""Stops the commands at random moments and looks at what the next run finds.

A script, which tests start: everything is imported once, and each try is a fork of that process.
Half of the moments are random in time; the others are just before a random one of the operations
that Python announces to audit hooks: files opened for writing, folders made, names changed.

Usage: killed.py FOLDER TRIES SEED SIGNAL PHASE...; prints a JSON object for each try.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fakes.calm import calm
from resnext.artifact import files
from resnext.artifact.files import read_artifact
from resnext.cli import app, parity
from resnext.errors import ResnextError
from resnext.storage import read_cached
from resnext_bench.cli import bench
from resnext_bench.result import read_run
from resnext_export.cli import export

#: Operations that a process may be stopped before.
_CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "shutil.rmtree"}
_LIMIT_S = 120
#: The artifact that exports replace.
_OLD = Path(__file__).parents[1] / "core" / "data" / "earlier_artifacts" / "onnx-fp16"
#: Imported before the first fork; no thread may run then.
_HEAVY = (
    *("torch", "torch.onnx", "torch._dynamo", "torch.export", "onnx", "onnxscript", "onnxruntime"),
    *("onnxruntime.quantization", "openvino", "sklearn.datasets", "rich.progress", "PIL.Image"),
    *("resnext_bench.api", "resnext_export.pipeline", "resnext.verify.check", "cpuinfo", "psutil"),
)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One command to stop.

    Attributes:
        arguments: of the command, in the folder of a try.
        command: the command.
        exchanges: whether the file system swaps two folders in one step.
    """

    arguments: Callable[[Path], list[str]]
    command: Any = export.main
    exchanges: bool = True


def _exporting(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda base: [
        *(argument.replace("BASE", str(base)) for argument in arguments),
        "--output",
        str(base / "out"),
        "--force",
    ]


PHASES = {
    "export": Phase(_exporting("--format", "onnx", "--weights", "digits")),
    "export, two renames": Phase(
        _exporting("--format", "onnx", "--weights", "digits"), exchanges=False
    ),
    "build": Phase(_exporting("--onnx", "BASE/onnx", "--format", "openvino")),
    "engine": Phase(_exporting("--onnx", "BASE/onnx", "--format", "trt-rtx")),
    "calibration": Phase(
        _exporting(
            *("--format", "onnx", "--onnx", "BASE/onnx", "--precision", "int8"),
            *("--calibration", "digits", "--calibration-images", "16"),
        )
    ),
    "cache": Phase(
        lambda base: [
            *("--artifact", str(base / "onnx"), "--images", "16", "--batch", "4"),
            *("--json", str(base / "run.json")),
        ],
        parity.main,
    ),
    "benchmark": Phase(
        lambda base: [
            *("--backend", "ort-cpu,openvino", "--weights", "digits", "--precision", "fp32,int8"),
            *("--calibration-images", "8", "--batch", "2", "--threads", "1"),
            *("--accuracy", "digits", "--accuracy-images", "20"),
            *("--duration", "0.05", "--rounds", "2", "--warmup", "0"),
            *("--json", str(base / "run.json")),
        ],
        bench.main,
    ),
}


class Tries:
    """Runs phases in folders below ``folder``.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template"
        code, said, _ = self._forked(
            partial(
                export.main,
                [
                    *("--format", "onnx", "--weights", "digits"),
                    *("--output", str(self._template / "onnx")),
                ],
            ),
            folder,
        )
        assert code == 0, said
        shutil.copytree(_OLD, self._template / "out")
        self._old = read_artifact(self._template / "out").manifest.file_sha256
        self._whole: dict[str, tuple[Any, float, int]] = {}

    def stop(self, name: str, chance: random.Random, number: signal.Signals) -> dict[str, Any]:
        """Stop a phase once, and run it again.

        Returns:
            What was done and found; ``problems`` is empty if all is as it should be.
        """
        wanted, took_s, operations = self._undisturbed(name)
        base = self._new_base()
        by_time = chance.random() < 0.5
        at = chance.uniform(0, took_s) if by_time else chance.randrange(operations)
        code, said, _ = self._run(name, base, number=number, **{"at_s" if by_time else "at": at})
        problems: list[str] = []
        if number != signal.SIGKILL:
            problems += self._ended(code, said, base)
        if PHASES[name].command is export.main:
            problems += self._either_whole(base, wanted)
        left, unreadable = self._left_run(name, base)
        problems += unreadable
        code_again, said_again, _ = self._run(name, base)
        if code_again != 0:
            problems.append(f"the next run ended with {code_again}: {said_again}")
        elif (found := self._found(name, base)) != wanted:
            problems.append(f"the next run found {found} instead of {wanted}")
        problems += [f"{path} is damaged" for path in damaged(base / "cache")]
        problems += [f"{path} was left" for path in left_over(base)]
        shutil.rmtree(base)
        return {
            "phase": name,
            "by": "time" if by_time else "operation",
            "at": round(at, 3),
            "of": round(took_s, 3) if by_time else operations,
            "code": code,
            "left": left,
            "problems": problems,
        }

    def _undisturbed(self, name: str) -> tuple[Any, float, int]:
        if name not in self._whole:
            base = self._new_base()
            began = time.monotonic()
            code, said, operations = self._run(name, base)
            assert code == 0, f"{name}: {said}"
            took_s = time.monotonic() - began
            self._whole[name] = self._found(name, base), took_s, operations
            shutil.rmtree(base)
        return self._whole[name]

    def _new_base(self) -> Path:
        base = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copytree(self._template, base, dirs_exist_ok=True)
        return base

    def _run(self, name: str, base: Path, **stop: Any) -> tuple[int, str, int]:
        phase = PHASES[name]

        def run() -> None:
            if not phase.exchanges:
                files._exchange = lambda *_: False
            phase.command(phase.arguments(base))

        return self._forked(run, base, **stop)

    def _forked(
        self,
        run: Callable[[], None],
        base: Path,
        *,
        number: signal.Signals = signal.SIGKILL,
        at_s: float | None = None,
        at: int | None = None,
    ) -> tuple[int, str, int]:
        """Exit code, stderr, and number of operations of ``run`` in a process of its own."""
        (base / "tmp").mkdir(exist_ok=True)
        (base / "stderr").write_text("")
        (base / "started").unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _be_the_command(run, base, number, at)
        began = None
        stopped = at_s is None
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if began is None and (base / "started").exists():
                began = time.monotonic()
            gone_s = 0.0 if began is None else time.monotonic() - began
            if not stopped and began is not None and at_s is not None and gone_s >= at_s:
                os.kill(child, number)
                stopped = True
            if gone_s > _LIMIT_S:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        counted = base / "operations"
        operations = int(counted.read_text()) if counted.exists() else 0
        counted.unlink(missing_ok=True)
        return code, (base / "stderr").read_text(), operations

    def _found(self, name: str, base: Path) -> Any:
        """What a phase made, times aside. Engines differ from build to build."""
        if name == "engine":
            return read_artifact(base / "out").manifest.parent_sha256
        if PHASES[name].command is export.main:
            return read_artifact(base / "out").manifest.file_sha256
        outcome = json.loads((base / "run.json").read_text())
        if name == "cache":
            return outcome["passed"], round(outcome["max_error"], 6)
        return [[row["artifact_sha256"], row["accuracy"]] for row in outcome["rows"]]

    def _left_run(self, name: str, base: Path) -> tuple[str, list[str]]:
        """The file of a stopped benchmark: nothing, or a whole file with the rows that were judged,
        and what is wrong with it.
        """
        if name != "benchmark" or not (base / "run.json").exists():
            return "no file", []
        try:
            run = read_run(base / "run.json")
        except ResnextError as exc:
            return "a damaged file", [f"the stopped run left {exc}"]
        if run.complete:
            return "the whole run", []
        wrong = [] if all(row.parity for row in run.rows) else ["a row was saved before its parity"]
        return f"{len(run.rows)} finished rows", wrong

    def _either_whole(self, base: Path, wanted: Any) -> Iterator[str]:
        try:
            manifest = read_artifact(base / "out").manifest
        except Exception as exc:
            yield f"no whole artifact after the stop: {exc}"
            return
        if manifest.file_sha256 != self._old and wanted not in (
            manifest.file_sha256,
            manifest.parent_sha256,
        ):
            yield f"neither the old artifact nor the new one: {manifest.file_sha256}"

    def _ended(self, code: int, said: str, base: Path) -> Iterator[str]:
        """How a command ends that received SIGINT or SIGTERM, unless it had ended before."""
        lines = [line for line in said.splitlines() if line[:7].strip()[:1] not in "0123456789"]
        if "Traceback" in said or "Exception ignored" in said:
            yield f"stderr: {said}"
        if code not in (0, 130):
            yield f"ended with {code}: {lines}"
        if code == 130 and not (lines and lines[-1].startswith("interrupted; ")):
            yield f"the last line does not say that it was interrupted: {lines}"
        yield from (f"{path} was left by the signal" for path in left_over(base))


def _be_the_command(
    run: Callable[[], None], base: Path, number: signal.Signals, at: int | None
) -> None:
    """In the child: run, count its operations, and stop before one of them."""
    os.environ.update(RESNEXT_CACHE_DIR=str(base / "cache"), TMPDIR=str(base / "tmp"))
    tempfile.tempdir = None
    tempfile.gettempdir()  # finds out by writing a file, which is Python's and not ours to remove
    os.chdir(base)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(base / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        opened = event == "open" and arguments[2] is not None and arguments[2] & os.O_CREAT
        if event in _CHANGES or opened:
            if seen == at:
                seen += 1
                os.kill(os.getpid(), number)
            seen += 1

    code = 0
    try:
        children = app._children

        def begins() -> set[int]:  # what a command does once it handles signals
            (base / "started").touch()
            return children()

        app._children = begins
        sys.addaudithook(hook)
        run()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    threading._shutdown()  # type: ignore[attr-defined]  # as a process ends: after its threads
    counted = seen
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    (base / "operations").write_text(str(counted))
    os._exit(code)


def damaged(cache: Path) -> list[Path]:
    """Cached files that do not have their digest, and artifacts that are not whole."""
    wrong = []
    for path in cache.rglob("*"):
        if path.name == "manifest.json":
            try:
                read_artifact(path.parent)
            except Exception:
                wrong.append(path.parent)
        elif path.suffix in (".json", ".npy", ".bin", ".sha256") and read_cached(path) is None:
            wrong.append(path)
    return wrong


def left_over(base: Path) -> list[Path]:
    """What should not be there once nothing runs."""
    partial = [path for path in base.rglob("*") if ".partial-" in path.name]
    return [path for path in [*partial, *(base / "tmp").iterdir()] if path.name != "operations"]


def main() -> None:
    folder, tries, seed, number, *names = sys.argv[1:]
    calm(pytest.MonkeyPatch())  # rows of a few milliseconds are not to be judged by their times
    for module in _HEAVY:
        with suppress(ImportError):
            import_module(module)
    chance = random.Random(int(seed))
    every = Tries(Path(folder))
    for index in range(int(tries)):
        name = names[index % len(names)]
        seen = every.stop(name, chance, signal.Signals[number])
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
