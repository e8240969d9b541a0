"""``onnxruntime_perf_test``, which is built with ONNX Runtime and is in none of its packages."""

from __future__ import annotations

from .setup import Setup, Visit
from .tool import Tool, number, one


def command(program: str, setup: Setup) -> list[str]:
    """One request at a time on the CPU provider, random input."""
    free = ("-f", f"{setup.free_dimension}:{setup.shape[0]}") if setup.free_dimension else ()
    return [
        program,
        *("-e", "cpu", "-m", "duration", "-t", str(setup.duration_s), "-c", "1", "-o", "99"),
        *("-x", str(setup.threads), "-y", "1", "-I", *free),
        str(setup.path),
    ]


def read(output: str, _setup: Setup) -> Visit:
    """Run time and requests. It tells its number of threads, and neither file nor shape."""
    runs = number(r"^Total inference requests: *(\d+)", output, "number of requests")
    duration_s = number(r"^Total inference run time: *([\d.e+-]+) s", output, "run time")
    threads = one(r"^Setting intra_op_num_threads to (\d+)", output, "number of threads")
    return Visit(duration_s * 1e9 / runs, int(runs), {"threads": threads})


PERF_TEST = Tool(
    name="onnxruntime_perf_test",
    executable="onnxruntime_perf_test",
    backend="ort-cpu",
    kinds=("onnx",),
    hints=("latency",),
    boundary="enqueue",
    includes=(
        "wall time over number of runs: one call with the input bound; ours is Python's call,"
        " theirs C++'s"
    ),
    command=command,
    read=read,
    told=("threads",),
    install="build ONNX Runtime from source, and put it on PATH",
)
