"""A machine for runs that are made up, and levels of their rounds."""

from __future__ import annotations

from resnext.machine.environment import Environment

HERE = Environment(
    cpu="a CPU",
    physical_cores=2,
    memory_bytes=1 << 30,
    load_1min=0.0,
    governor=None,
    gpus=(),
    system="Linux",
    python="3.11.0",
    packages={"torch": "2.11", "onnxruntime": "1.30"},
)
#: In an order without drift, no two alike.
NOISE = (0.0, 0.5, -0.5, 0.3, -0.2, 0.4, -0.4, 0.1, -0.3, 0.2, -0.1, 0.35)
