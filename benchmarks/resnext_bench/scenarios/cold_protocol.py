"""What a process that starts cold is asked."""

from __future__ import annotations

from typing import Any

from resnext.artifact.specs import Strict


class ColdJob(Strict):
    """What to open.

    Attributes:
        started_ns: when the process was started, by the machine's monotonic clock.
        library: the runtime's library, imported first.
        backend: registry name.
        options: fields of `SessionOptions`.
        artifact: folder, or path of a bare ONNX file; None for a live network.
        input_size: height and width of a bare file's input.
        weights: file of a live network.
        config: fields of its `ResNeXtConfig`.
        inputs: file with the input, as NumPy writes it.
    """

    started_ns: int
    library: str
    backend: str
    options: dict[str, Any]
    artifact: str | None
    input_size: tuple[int, int] | None = None
    weights: str | None = None
    config: dict[str, Any] | None = None
    inputs: str
