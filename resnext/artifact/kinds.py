"""Kinds of files that a manifest can describe, and what the manifest of each has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """What is particular to the manifest of one kind of file.

    Attributes:
        record: field that says how the file was built; None for a kind that has no such record.
        opset: the file was made from an ONNX graph, so its operator set is known.
        code: the file holds compiled code, which runs when it is loaded.
    """

    record: Literal["engine", "package"] | None = None
    opset: bool = True
    code: bool = False


#: Every kind by name. A format that is registered with the exporter adds its kind.
KINDS: dict[str, Kind] = {
    "onnx": Kind(),
    "openvino": Kind(),
    "trt": Kind("engine", code=True),
    "trt-rtx": Kind("engine", code=True),
    "pt2": Kind("package", opset=False, code=True),
}
