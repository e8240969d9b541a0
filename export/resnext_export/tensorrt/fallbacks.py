"""Fallbacks for grouped convolutions without a half-precision kernel, tried in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from resnext.artifact.records import Fallback
from resnext.errors import EngineRefused, NoKernel
from resnext_export.passes.base import run_pass
from resnext_export.passes.insert_fp32_islands import InsertFp32Islands
from resnext_export.passes.merge_groups import MergeGroups

from .engine_from_onnx import BuiltEngine

#: Channels per group for which every library has fp16 kernels.
MERGED_WIDTH = 32


@dataclass(frozen=True)
class Tried:
    """A successful build, and the fallbacks that it needed.

    Attributes:
        engine: the engine.
        done: the fallbacks used, human-readable.
        changed: the ONNX model that was built, if it is not the parent's.
    """

    engine: BuiltEngine
    done: tuple[str, ...] = ()
    changed: onnx.ModelProto | None = None


def build_with_fallbacks(
    source: bytes, build: Callable[[bytes], BuiltEngine], allowed: tuple[Fallback, ...]
) -> Tried:
    """Build; if half-precision grouped convolutions are refused, change the graph and try again.

    TensorRT 11 lacks kernels for some of them in strongly typed networks (NVIDIA/TensorRT#4838).
    Merging groups keeps the precision and the function; computing the refused convolutions in
    float32 keeps the function.

    Args:
        source: the ONNX file.
        build: builds an engine from an ONNX file.
        allowed: fallbacks, in the order to try them.

    Raises:
        EngineRefused: the reason is another one, or the last fallback did not help.
        GateFailed: a changed graph does not have the properties that its pass promises.
    """
    try:
        return Tried(build(source))
    except NoKernel as exc:
        refused: EngineRefused = exc
    proto = onnx.load_from_string(source)
    grouped = _half_grouped_convolutions(proto)
    if not set(refused.nodes) & set(grouped):
        raise refused
    done: list[str] = []
    for fallback in allowed:
        if fallback == "merge-groups":
            proto, names, *_ = run_pass(MergeGroups(MERGED_WIDTH), proto)
            if not names:  # all are already wide enough
                continue
            done.append(f"merge-groups: to {MERGED_WIDTH} channels a group in {_some(names)}")
        else:
            names = tuple(name for name in refused.nodes if name in grouped) or grouped
            proto = run_pass(InsertFp32Islands(names), proto).proto
            done.append(f"fp32-islands: float32 in {_some(names)}")
        outcome = _build_with_more_islands(proto, build, fallback, set(grouped), done)
        if isinstance(outcome, Tried):
            return outcome
        refused = outcome
    blamed = tuple(
        name for name in refused.nodes if name in grouped and isinstance(refused, NoKernel)
    )
    missing = (
        f"these half-precision grouped convolutions have no kernel: {_some(blamed)}; "
        if blamed
        else ""
    )
    fallbacks = f"tried {'; '.join(done)}" if done else "no fallback was tried"
    raise EngineRefused(
        f"{refused.message}; {missing}{fallbacks}",
        refused.nodes,
        hint=(
            "allow another one with `fallbacks`"
            if len(allowed) < 2
            else "use `precision` fp32 or TensorRT 10"
        ),
    ) from refused


def _build_with_more_islands(
    proto: onnx.ModelProto,
    build: Callable[[bytes], BuiltEngine],
    fallback: Fallback,
    grouped: set[str],
    done: list[str],
) -> Tried | EngineRefused:
    """Build ``proto``, and add islands until the library refuses no more layers, since it names one
    at a time.
    """
    for _ in range(len(grouped) + 1):
        try:
            return Tried(build(proto.SerializeToString()), tuple(done), proto)
        except EngineRefused as exc:
            # Only originally grouped convolutions; a merge may have reduced them to one group.
            half = {node.name for node in _half_convolutions(proto)}
            more = tuple(
                name for name in exc.nodes if name in grouped & half and isinstance(exc, NoKernel)
            )
            if fallback != "fp32-islands" or not more:
                return exc
            proto = run_pass(InsertFp32Islands(more), proto).proto
            done[-1] += f", {', '.join(more)}"
    raise AssertionError("each iteration makes one more convolution float32")


def _half_grouped_convolutions(proto: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(
        node.name
        for node in _half_convolutions(proto)
        if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    )


def _half_convolutions(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    half = {
        t.name
        for t in proto.graph.initializer
        if t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    }
    return [node for node in proto.graph.node if node.op_type == "Conv" and node.input[1] in half]


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
