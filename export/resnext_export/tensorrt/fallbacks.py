"""Ways round half-precision grouped convolutions that an engine builder has no kernel for, tried in
order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact.records import Fallback
from resnext.errors import EngineRefused, NoKernel

from .engine_from_onnx import BuiltEngine

if TYPE_CHECKING:
    import onnx

#: Channels in each group that every flavour has fp16 kernels for.
MERGED_WIDTH = 32


@dataclass(frozen=True)
class Tried:
    """A build that went through, perhaps not at the first try.

    Attributes:
        engine: the engine.
        done: fallbacks that were needed, in words.
        changed: the ONNX model that was built in the end, where that is not the parent's.
    """

    engine: BuiltEngine
    done: tuple[str, ...] = ()
    changed: onnx.ModelProto | None = None


def build_with_fallbacks(
    path: Path, build: Callable[[Path | bytes], BuiltEngine], allowed: tuple[Fallback, ...]
) -> Tried:
    """Build; where half-precision grouped convolutions are refused, change the graph as ``allowed``
    says and try again.

    TensorRT 11 has no kernels for some of them in strongly typed networks (NVIDIA/TensorRT#4838).
    Merging groups keeps precision and function; computing the refused convolutions in float32 keeps
    the function.

    Raises:
        EngineRefused: refused for another reason, or still refused after the last fallback.
    """
    try:
        return Tried(build(path))
    except NoKernel as exc:
        refused: EngineRefused = exc
    import onnx

    proto = onnx.load(str(path))
    grouped = _half_grouped_convolutions(proto)
    if not set(refused.nodes) & set(grouped):
        raise refused
    done: list[str] = []
    for fallback in allowed:
        if fallback == "merge-groups":
            from resnext_export.passes.merge_groups import merged_from_onnx

            proto, names = merged_from_onnx(proto, MERGED_WIDTH)
            if not names:  # all are as wide already
                continue
            done.append(f"merge-groups: to {MERGED_WIDTH} channels a group in {_some(names)}")
        else:
            from resnext_export.passes.insert_fp32_islands import islands_from_onnx

            names = tuple(name for name in refused.nodes if name in grouped) or grouped
            proto = islands_from_onnx(proto, names)
            done.append(f"fp32-islands: float32 in {_some(names)}")
        tried = _until_no_more_are_named(proto, build, fallback, set(grouped), done)
        if isinstance(tried, Tried):
            return tried
        refused = tried
    blamed = tuple(
        name for name in refused.nodes if name in grouped and isinstance(refused, NoKernel)
    )
    lacking = (
        f"these half-precision grouped convolutions have no kernel: {_some(blamed)}; "
        if blamed
        else ""
    )
    tried_so_far = f"tried {'; '.join(done)}" if done else "no fallback was tried"
    fix = (
        "allow another one with --on-refusal"
        if len(allowed) < 2
        else "use --precision fp32 or TensorRT 10"
    )
    raise EngineRefused(f"{refused}; {lacking}{tried_so_far}; {fix}", refused.nodes) from refused


def _until_no_more_are_named(
    proto: onnx.ModelProto,
    build: Callable[[Path | bytes], BuiltEngine],
    fallback: Fallback,
    grouped: set[str],
    done: list[str],
) -> Tried | EngineRefused:
    """Build ``proto``. The library names one refused layer at a time, so islands are added until it
    names no more.
    """
    from resnext_export.passes.insert_fp32_islands import islands_from_onnx

    for _ in range(len(grouped) + 1):
        try:
            return Tried(build(proto.SerializeToString()), tuple(done), proto)
        except EngineRefused as exc:
            # Of the convolutions that were grouped: a merge may have left one group.
            half = {node.name for node in _half_convolutions(proto)}
            more = tuple(
                name for name in exc.nodes if name in grouped & half and isinstance(exc, NoKernel)
            )
            if fallback != "fp32-islands" or not more:
                return exc
            proto = islands_from_onnx(proto, more)
            done[-1] += f", {', '.join(more)}"
    raise AssertionError("each turn makes one more convolution float32")


def _half_grouped_convolutions(proto: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(
        node.name
        for node in _half_convolutions(proto)
        if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    )


def _half_convolutions(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    from onnx import TensorProto

    half = {
        t.name
        for t in proto.graph.initializer
        if t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    }
    return [node for node in proto.graph.node if node.op_type == "Conv" and node.input[1] in half]


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
