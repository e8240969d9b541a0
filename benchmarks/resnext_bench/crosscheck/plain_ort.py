"""A plain loop over onnxruntime, run in a separate process; uses nothing of this toolkit. Prints a
JSON object.

    python -m resnext_bench.crosscheck.plain_ort MODEL INPUT DTYPE SHAPE THREADS SECONDS

The shape is written 8x3x224x224.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime as ort

_WARMUP_S = 0.2


def main(path: str, name: str, dtype: str, shape: str, threads: str, seconds: str) -> None:
    """Run for that many seconds and print what was run."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    images = generator.standard_normal([int(size) for size in shape.split("x")])
    feeds = {name: images.astype(dtype)}
    outputs = [output.name for output in session.get_outputs()]
    warm = time.perf_counter() + _WARMUP_S
    session.run(outputs, feeds)
    while time.perf_counter() < warm:
        session.run(outputs, feeds)
    runs, began = 0, time.perf_counter()
    ends = began + float(seconds)
    while (now := time.perf_counter()) < ends:
        session.run(outputs, feeds)
        runs += 1
    facts = {
        "runs": runs,
        "seconds": now - began,
        "file": path,
        "shape": "x".join(map(str, feeds[name].shape)),
        "threads": str(session.get_session_options().intra_op_num_threads),
        "version": ort.__version__,
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
