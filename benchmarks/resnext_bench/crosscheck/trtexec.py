"""TensorRT's ``trtexec``, which is in its archives and containers."""

from __future__ import annotations

import re

from .setup import Setup, Visit, times
from .tool import Tool, number, one


def command(program: str, setup: Setup) -> list[str]:
    """One stream, no transfers: kernels alone, as between our events."""
    return [
        program,
        f"--loadEngine={setup.path}",
        f"--shapes={setup.input_name}:{times(setup.shape)}",
        f"--duration={setup.duration_s}",
        *("--warmUp=200", "--iterations=1", "--avgRuns=1", "--infStreams=1", "--noDataTransfers"),
        *(("--useCudaGraph",) if setup.cuda_graph else ()),
    ]


def read(output: str, setup: Setup) -> Visit:
    """Mean of the GPU compute time, and the settings that it prints."""
    mean_ms = number(r"GPU Compute Time: .*?\bmean = ([\d.e+-]+) ms", output, "GPU compute time")
    runs = number(r"Timing trace has (\d+) queries", output, "number of queries")
    name = re.escape(setup.input_name)
    graph = one(r"CUDA Graph: (Enabled|Disabled)", output, "setting of CUDA graphs")
    facts = {
        "file": one(r"&&&& RUNNING .*--loadEngine=(\S+)", output, "name of the engine"),
        "shape": one(rf"Input inference shape ?: {name}=([\dx]+)", output, "input shape"),
        "streams": one(r"Inference Streams: (\d+)", output, "number of streams"),
        "CUDA graph": str(graph == "Enabled"),
    }
    return Visit(mean_ms * 1e6, int(runs), facts)


TRTEXEC = Tool(
    name="trtexec",
    executable="trtexec",
    backend="trt",
    kinds=("trt",),
    hints=("latency",),
    boundary="device",
    includes="mean time between CUDA events around one launch or graph replay, without transfers",
    command=command,
    read=read,
    told=("file", "shape", "streams", "CUDA graph"),
    install="install TensorRT's archive, and put its bin folder on PATH",
)
