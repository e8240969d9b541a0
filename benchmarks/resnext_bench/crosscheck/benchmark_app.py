"""OpenVINO's ``benchmark_app``, as the package ``openvino`` installs it."""

from __future__ import annotations

import json

from resnext.errors import SessionFailed

from .setup import Setup, Visit
from .tool import Tool, number, one

#: OpenVINO's names of element types, by NumPy's.
_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "uint8": "u8"}
_REPORT = "benchmark_report.json"


def command(program: str, setup: Setup) -> list[str]:
    """Everything explicit. It takes numbers of threads and streams only without a hint."""
    # Without it, an input with three channels becomes a picture of bytes, and the network another.
    kept = () if setup.input_dtype == "bfloat16" else ("-ip", _TYPES[setup.input_dtype])
    at_once = ("async", "-nireq", str(setup.streams))
    return [
        program,
        *("-m", str(setup.path), "-d", "CPU", "-hint", "none"),
        *("-api", *(at_once if setup.hint == "throughput" else ("sync",))),
        *("-nstreams", str(setup.streams), "-nthreads", str(setup.threads)),
        *("-infer_precision", _TYPES[setup.compute_dtype], *kept),
        *("-shape", f"{setup.input_name}[{','.join(map(str, setup.shape))}]"),
        *("-inference_only", "true", "-t", str(setup.duration_s)),
        *("-report_type", "no_counters", "-json_stats", "true"),
        *("-report_folder", str(setup.folder)),
    ]


def read(output: str, setup: Setup) -> Visit:
    """Number of runs and duration, printed to 0.01 ms: its latencies in milliseconds are rounded
    too much for small networks.
    """
    runs = number(r"Count: +(\d+) iterations", output, "number of iterations")
    duration_ms = number(r"Duration: +([\d.]+) ms", output, "duration")
    shape = one(r" / \[[^\]]*\] / \[(\d+(?:,\d+)+)\]$", _inputs(output), "input shape")
    dtype = one(r"\) : (\w+) / ", _inputs(output), "input type")
    facts = {
        "file": _file(setup),
        "shape": shape.replace(",", "x"),
        "input": next((name for name, own in _TYPES.items() if own == dtype), dtype),
        "threads": one(r"INFERENCE_NUM_THREADS: (\d+)", output, "number of threads"),
        "streams": one(r"NUM_STREAMS: (\d+)", output, "number of streams"),
        "precision": one(r"INFERENCE_PRECISION_HINT: <Type: '(\w+)'>", output, "precision"),
        "version": one(r"Build \.+ ([\d.]+)", output, "version"),
    }
    return Visit(duration_ms * 1e6 / runs, int(runs), facts)


def _inputs(output: str) -> str:
    """The lines about the inputs of the reshaped network."""
    return output.rpartition("Model inputs:")[2].partition("Model outputs:")[0]


def _file(setup: Setup) -> str:
    try:
        options = json.loads((setup.folder / _REPORT).read_text())["cmd_options"]
        return str(options["-m"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SessionFailed(f"its report {_REPORT} is missing or names no file") from exc


BENCHMARK_APP = Tool(
    name="benchmark_app",
    executable="benchmark_app",
    backend="openvino",
    kinds=("onnx", "openvino"),
    hints=("latency", "throughput"),
    boundary="enqueue",
    includes=(
        "wall time over number of runs: OpenVINO's Python call of one request, input set once"
        " beforehand; theirs also copies the logits"
    ),
    command=command,
    read=read,
    told=("file", "shape", "input", "threads", "streams", "precision", "version"),
    install="pip install openvino",
)
