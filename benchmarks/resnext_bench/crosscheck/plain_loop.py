"""The plain onnxruntime loop as a peer: what a user would write without this toolkit."""

from __future__ import annotations

import json

from resnext.errors import SessionFailed

from .setup import Setup, Visit, times
from .tool import Tool

_MODULE = "resnext_bench.crosscheck.plain_ort"


def command(program: str, setup: Setup) -> list[str]:
    """The loop in this Python."""
    tensor = (setup.input_name, setup.input_dtype, times(setup.shape))
    numbers = (str(setup.threads), str(setup.duration_s))
    return [program, "-m", _MODULE, str(setup.path), *tensor, *numbers]


def read(output: str, _setup: Setup) -> Visit:
    """The JSON object that the script prints."""
    try:
        (line,) = [line for line in output.splitlines() if line.startswith("{")]
        printed = json.loads(line)
        runs, seconds = int(printed.pop("runs")), float(printed.pop("seconds"))
        return Visit(seconds * 1e9 / runs, runs, printed)
    except (ValueError, KeyError, ZeroDivisionError) as exc:
        raise SessionFailed("its output is no JSON object with runs and seconds") from exc


PLAIN_LOOP = Tool(
    name="onnxruntime",
    executable=None,
    backend="ort-cpu",
    kinds=("onnx",),
    hints=("latency",),
    boundary="run",
    includes="wall time over number of runs: arrays in, new arrays out; ours also checks its input",
    command=command,
    read=read,
    told=("file", "shape", "threads", "version"),
    install="pip install onnxruntime",
)
