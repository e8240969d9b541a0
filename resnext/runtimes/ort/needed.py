"""What an ONNX file asks of the runtime that loads it, from its bytes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnxruntime as ort
from onnx import TensorProto

from resnext.errors import MissingRequirement

from .releases import PRODUCT, RELEASES, oldest_release

#: Element types that no release's CPU provider computes convolutions in.
_NOT_COMPUTED = {
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT8E4M3FN: "float8",
    TensorProto.FLOAT8E5M2: "float8",
}


@dataclass(frozen=True)
class Needed:
    """The requirements of an ONNX file.

    Attributes:
        opset: its ONNX operator set; 0 if it names none.
        ir_version: its version of ONNX's intermediate representation.
        onnxruntime: the oldest release of ONNX Runtime known to run it, by its first two numbers;
            None if none is.
        reason: why none is, or "".
    """

    opset: int
    ir_version: int
    onnxruntime: str | None
    reason: str = ""

    def __str__(self) -> str:
        versions = f"opset {self.opset}, IR {self.ir_version}"
        if self.onnxruntime is None:
            return f"{versions}; {self.reason}"
        return f"{PRODUCT} {self.onnxruntime} or newer ({versions})"


def needed_by(proto: onnx.ModelProto) -> Needed:
    """What ``proto`` needs, judged by its versions, operators and weights; nothing is run.

    ONNX Runtime's releases are known by the operators of this toolkit's networks. Another network
    may have an operator that a release lacks although it runs the opset.
    """
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    opset = opsets.pop("ai.onnx", 0)
    stored = {tensor.data_type for tensor in proto.graph.initializer}
    if odd := sorted(name for kind, name in _NOT_COMPUTED.items() if kind in stored):
        reason = f"no release of {PRODUCT} computes {odd[0]} on a CPU"
        return Needed(opset, proto.ir_version, None, reason)
    if opsets:
        reason = f"which release of {PRODUCT} has the operators of {min(opsets)} is not known"
        return Needed(opset, proto.ir_version, None, reason)
    quantized = any(node.op_type.endswith("QuantizeLinear") for node in proto.graph.node)
    oldest = oldest_release(opset, proto.ir_version, quantized=quantized)
    reason = "" if oldest else f"no known release of {PRODUCT} takes that"
    return Needed(opset, proto.ir_version, oldest, reason)


def check_taken_here(opset: int, *, quantized: bool) -> None:
    """Check that the installed release runs such a file, as far as it is known.

    Args:
        opset: its ONNX operator set.
        quantized: it has Q/DQ nodes.

    Raises:
        MissingRequirement: it is too old.
    """
    release = RELEASES.get(".".join(ort.__version__.split(".")[:2]))
    if release is None:
        return
    highest = release.quantized_opset if quantized else release.opset
    if opset > highest:
        raise MissingRequirement(
            f"{PRODUCT} {ort.__version__}, which has to run the file, takes opset {highest} at"
            f" most, not {opset}",
            hint=f"use `opset` {highest}, or upgrade {PRODUCT}",
        )
