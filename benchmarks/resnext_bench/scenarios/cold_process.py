"""The process of a cold start. At its top it imports nothing that takes time: importing is what it
times.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnext.machine.parent import end_with_parent

if TYPE_CHECKING:
    from resnext.runtimes.session import Session

#: Runs after the first.
_MORE_RUNS = 5


def main() -> None:
    """Read the job from standard input, start, and answer on the file descriptor in ``argv``."""
    entered = time.monotonic_ns()
    end_with_parent()
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as replies:
        try:
            reply = _start(json.loads(sys.stdin.readline()), entered)
        except Exception as exc:  # the parent reports it, whatever it is
            from resnext_bench.measure import as_failure

            error = as_failure(exc)
            reply = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        replies.write(json.dumps(reply) + "\n")


def _start(job: dict[str, Any], entered: int) -> dict[str, Any]:
    """Start; the fields of `Start`."""
    stamps = [job["started_ns"], entered, time.monotonic_ns()]  # waiting for the job is not counted
    import_module(job["library"])
    stamps.append(time.monotonic_ns())
    import numpy as np

    from resnext.runtimes.registry import load_door
    from resnext_bench.memory import peak_resident_bytes

    _ = import_module("resnext.artifact.foreign"), load_door(job["backend"])
    if job["weights"]:
        import_module("resnext.weights.spec")
    stamps.append(time.monotonic_ns())
    images = np.load(job["inputs"])
    opening = time.monotonic_ns()
    with _open(job) as session:
        inputs = {session.inputs[0].name: images}
        stamps.append(time.monotonic_ns())
        session.run(inputs)
        stamps.append(time.monotonic_ns())
        more = []
        for _ in range(_MORE_RUNS):
            before = time.monotonic_ns()
            session.run(inputs)
            more.append(time.monotonic_ns() - before)
    started, entered, asked, library, toolkit, opened, first = stamps
    return {
        "python_s": (entered - started) / 1e9,
        "library_s": (library - asked) / 1e9,
        "toolkit_s": (toolkit - library) / 1e9,
        "open_s": (opened - opening) / 1e9,
        "first_s": (first - opened) / 1e9,
        "steady_s": sorted(more)[len(more) // 2] / 1e9,
        "peak_host_bytes": peak_resident_bytes(),
    }


def _open(job: dict[str, Any]) -> Session:
    from pathlib import Path

    from resnext.runtimes.registry import SessionOptions, open_session

    options = SessionOptions(**job["options"])
    if job["artifact"] is not None:
        from resnext.artifact.foreign import open_artifact

        size = job["input_size"] and tuple(job["input_size"])
        artifact = open_artifact(Path(job["artifact"]), input_size=size)
        return open_session(artifact, job["backend"], options=options)
    from pydantic import TypeAdapter

    from resnext.network.config import ResNeXtConfig
    from resnext.weights.spec import load_weights

    config = TypeAdapter(ResNeXtConfig).validate_python(job["config"])
    return open_session(load_weights(job["weights"], config), job["backend"], options=options)
