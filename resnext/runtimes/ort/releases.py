"""Releases of ONNX Runtime, and the newest ONNX files that each runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from resnext.errors import UnknownName

#: What a release is called in a request: ``onnxruntime-1.17``.
PRODUCT = "onnxruntime"


@dataclass(frozen=True)
class Release:
    """The newest files that a release runs on its CPU provider.

    Attributes:
        opset: highest opset of a float32 or float16 network.
        quantized_opset: highest opset of a network with Q/DQ nodes.
        ir_version: highest version of ONNX's intermediate representation.
    """

    opset: int
    quantized_opset: int
    ir_version: int


#: Releases by their first two numbers, oldest first. Measured, on Linux, with the first and the
#: last patch of each: the shipped digits network in float32, float16, int8 and with baked
#: preprocessing runs at every opset from 18 to these, and is refused one above. That can be less
#: than ONNX Runtime's own table (https://onnxruntime.ai/docs/reference/compatibility.html) says
#: of a release, since the operators count: 1.15 parses opset 19 and has no Reshape of it.
RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        "1.15": Release(18, 18, 9),
        "1.16": Release(19, 19, 9),
        "1.17": Release(20, 20, 9),
        "1.18": Release(21, 21, 10),
        "1.19": Release(21, 21, 10),
        "1.20": Release(21, 21, 10),
        "1.21": Release(22, 22, 10),
        "1.22": Release(22, 22, 10),
        "1.23": Release(23, 22, 11),
        "1.24": Release(25, 25, 13),
        "1.25": Release(26, 26, 13),
        "1.26": Release(26, 26, 13),
        "1.27": Release(26, 26, 13),
        "1.28": Release(26, 26, 13),
        "1.29": Release(26, 26, 13),
        "1.30": Release(26, 26, 13),
        "1.31": Release(26, 26, 13),
        "1.32": Release(28, 27, 14),
    }
)


def release_named(name: str) -> Release:
    """The release that ``name`` means: ``onnxruntime-1.17``, or one of its patches.

    Raises:
        UnknownName: it is not in `RELEASES`; the message lists those that are.
    """
    product, _, version = name.partition("-")
    numbers = version.split(".")
    key = ".".join(numbers[:2])
    if product != PRODUCT or key not in RELEASES or len(numbers) > 3 or not numbers[-1].isdigit():
        raise UnknownName("release", name, (f"{PRODUCT}-{known}" for known in RELEASES))
    return RELEASES[key]


def oldest_release(opset: int, ir_version: int, *, quantized: bool) -> str | None:
    """The oldest of `RELEASES` that runs such a file; None if none does.

    Args:
        opset: its ONNX operator set.
        ir_version: its version of ONNX's intermediate representation.
        quantized: it has Q/DQ nodes.
    """
    for name, release in RELEASES.items():
        highest = release.quantized_opset if quantized else release.opset
        if opset <= highest and ir_version <= release.ir_version:
            return name
    return None
