"""The group widths at which a graph runs fastest on this machine, found by timing: one choice for each stage.

Whole networks are timed, since what a width costs hangs on what the runtime fuses and reorders around it. A stage's
candidates take turns, there and back in every round, and are compared within rounds: a machine that slows down or
speeds up meanwhile hits all of them alike.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from resnext.backends import SessionOptions, load_backend
from resnext.errors import (
    BadInput,
    MissingRequirement,
    ResnextError,
    SessionFailed,
    SilentFallback,
    UsageError,
)
from resnext.progress import working

from .constants import Constants, convolutions
from .merge_proof import prove_merge, weight_chain
from .merged_from_onnx import merged_from_onnx

Runtime = Literal["ort", "openvino"]
#: Runs a model for a while when called; gives the milliseconds of one run.
Timer: TypeAlias = Callable[[], float]
#: Opens a model for timing.
Opener: TypeAlias = Callable[[onnx.ModelProto], Timer]
_Feeds: TypeAlias = "dict[str, NDArray[Any]]"

#: A wider choice must be faster than a narrower one by this factor: 2 %.
_WINS = 1.02
#: Widths within this factor of the best are compared with each other in the end.
_CLOSE = 1.1
#: A width that is slower than the best by this factor is out; two in a row end the widening.
_LOST = 1.3
#: The result must be faster than the original by this factor, measured anew.
_PAYS = 1.01
#: What each timed visit of a small network lasts at least.
_VISIT_NS = 30_000_000
#: Rounds of each width against the unmerged stage, of those that are close together, and of the final measurement.
_ROUNDS, _LAST_ROUNDS, _FINAL_ROUNDS = 3, 4, 7

_STAGE = re.compile(r"(layer\d+)\..+")


@dataclass(frozen=True)
class StageTiming:
    """What one width of one stage took.

    Attributes:
        stage: its name.
        width: input channels of each group of the stage's narrowest convolution.
        median_ms: of one run of the whole network, earlier stages as they were chosen.
        ratio: to the time of the same network with this stage unmerged, the median over rounds; below 1 is faster.
    """

    stage: str
    width: int
    median_ms: float
    ratio: float


@dataclass(frozen=True)
class MergeChoice:
    """What `fastest_merge` chose.

    Attributes:
        widths: input channels of each group by stage, in graph order, in ``proto``.
        timings: what was timed, by stage and width.
        speedup: how many times as fast as the original ``proto`` runs, measured anew at the end; 1 where it is the
            original.
        proto: the merged model, or the very original where no merge pays.
    """

    widths: dict[str, int]
    timings: tuple[StageTiming, ...]
    speedup: float
    proto: onnx.ModelProto


def fastest_merge(
    proto: onnx.ModelProto,
    runtime: Runtime,
    batch: int,
    *,
    threads: int | None = None,
    open_timer: Opener | None = None,
) -> MergeChoice:
    """Choose how far to merge the groups of each stage by timing them on this machine's CPU.

    A stage is what shares ``layer1`` in names such as ``layer1.0.conv2``; convolutions of other names are taken by
    groups and width (``32x4d``). Stages are decided one after the other, each on top of the earlier choices: as it is,
    or any width that doubles from there, up to one group. Every merge that is accepted is proven by `prove_merge`. Each
    width takes some fifteen runs of the whole model, and a stage of ResNeXt-50 has five.

    Args:
        proto: the model, weights inside, float or Q/DQ, its first dimension the batch; left as it is.
        runtime: what it will run on.
        batch: images at a time.
        threads: of the runtime; None leaves that to it.
        open_timer: opens a model for timing, in place of ``runtime``.

    Returns:
        The choice, with all that was timed.

    Raises:
        UsageError: an unknown runtime, or ``batch`` or ``threads`` is below 1.
        BadInput: the input has other unknown dimensions than the batch, or another batch; or grouped convolutions
            cannot be told apart by name.
        BadArtifact: a weight is no constant of the file, or quantized along another axis than its output channels.
        GateFailed: a merge is not the same function.
        MissingRequirement: the runtime is not installed.
        SilentFallback: the runtime uses fewer threads than were asked for.
        SessionFailed: the runtime refuses the model or fails while running it.
    """
    if runtime not in _RUNNERS:
        raise UsageError(f"unknown runtime {runtime!r}; known: {', '.join(_RUNNERS)}")
    if batch < 1 or (threads is not None and threads < 1):
        raise UsageError(f"batch and threads must be at least 1, got {batch} and {threads}")
    opened = open_timer or partial(_timer, runtime=runtime, batch=batch, threads=threads)
    stages = _stages(proto)
    timings: list[StageTiming] = []
    if not stages:
        return MergeChoice({}, (), 1.0, proto)
    merged, timer = proto, opened(proto)
    for number, (stage, convs) in enumerate(stages.items(), 1):
        with working(f"timing group widths of {stage} ({number} of {len(stages)}) on {runtime}"):
            merged, timer, timed = _fastest(merged, timer, stage, convs, opened)
        timings += timed
    del timer  # the last measurement opens both models anew
    speedup = 1.0
    if merged is not proto:
        with working(f"timing the merged model against the original on {runtime}"):
            base, one = (_Candidate(1, 1, opened(model)) for model in (proto, merged))
            _take_turns(base, [one], _FINAL_ROUNDS)
        speedup = _ratio(base.times, one.times)
    if speedup <= _PAYS:
        merged, speedup = proto, 1.0
    widths = {stage: _width(merged, convs) for stage, convs in stages.items()}
    return MergeChoice(widths, tuple(timings), speedup, merged)


@dataclass
class _Candidate:
    """A width of a stage, and the milliseconds that it and the unmerged stage took in the same rounds."""

    least_width: int
    width: int
    timer: Timer
    times: list[float] = field(default_factory=list)
    base_times: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """To the time of the unmerged stage."""
        return _ratio(self.times, self.base_times)

    def timing(self, stage: str) -> StageTiming:
        return StageTiming(stage, self.width, median(self.times), self.ratio())


def _fastest(
    proto: onnx.ModelProto, timer: Timer, stage: str, convs: Sequence[str], opened: Opener
) -> tuple[onnx.ModelProto, Timer, list[StageTiming]]:
    """``proto``, or its fastest merge of the convolutions of ``stage`` if one is faster; its timer; what was timed."""
    base = _Candidate(1, _width(proto, convs), timer)
    held: list[_Candidate] = []
    lost: list[StageTiming] = []
    slow_in_a_row = 0
    for least_width, merged in _wider(proto, convs):
        held.append(_Candidate(least_width, _width(merged, convs), opened(merged)))
        del merged  # the best is made again in no time, and candidates are many
        _take_turns(base, held[-1:], _ROUNDS)
        limit = _LOST * min([1.0, *(one.ratio() for one in held)])
        slow_in_a_row = slow_in_a_row + 1 if held[-1].ratio() > limit else 0
        lost += [one.timing(stage) for one in held if one.ratio() > limit]
        held = [one for one in held if one.ratio() <= limit]  # sessions of the others are freed
        if slow_in_a_row == 2:
            break
    limit = _CLOSE * min([1.0, *(one.ratio() for one in held)])
    lost += [one.timing(stage) for one in held if one.ratio() > limit]
    held = [one for one in held if one.ratio() <= limit]
    if held:
        for one in (base, *held):
            one.times, one.base_times = [], []
        _take_turns(base, held, _LAST_ROUNDS)
    winner = base
    for one in held:
        if _ratio(winner.times, one.times) > _WINS:
            winner = one
    timings = sorted([*lost, *(one.timing(stage) for one in (base, *held))], key=lambda timing: timing.width)
    if winner is base:
        return proto, timer, timings
    merged, _ = merged_from_onnx(proto, winner.least_width, convs)
    prove_merge(proto, merged)
    return merged, winner.timer, timings


def _take_turns(base: _Candidate, others: Sequence[_Candidate], rounds: int) -> None:
    """Time ``base`` and ``others`` for ``rounds``, each there and back: a steady drift falls out of the sums."""
    everyone = (base, *others)
    for _ in range(rounds):
        there = [one.timer() for one in everyone]
        back = [one.timer() for one in reversed(everyone)]
        for one, first, second in zip(everyone, there, reversed(back), strict=True):
            one.times.append((first + second) / 2)
            one.base_times.append(base.times[-1])


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    return median(own / other for own, other in zip(times, others, strict=True))


def _shapes(proto: onnx.ModelProto, convs: Collection[str]) -> dict[str, tuple[int, int]]:
    """Groups of each of ``convs``, and input channels of a group, in graph order."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    constants, found = Constants(proto.graph), {}
    for conv in convolutions(proto.graph, convs):
        last = weight_chain(conv, makers, constants)[-1]
        found[conv.name] = _groups(conv), constants[last.input[1 if last is conv else 0]].dims[1]
    return found


def _groups(conv: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)


def _width(proto: onnx.ModelProto, convs: Sequence[str]) -> int:
    return min(width for _, width in _shapes(proto, convs).values())


def _stages(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the grouped convolutions by stage, in graph order."""
    merged_from_onnx(proto, 1)  # says what cannot be merged
    convs = convolutions(proto.graph, None)
    uses, grouped = Counter(conv.name for conv in convs), [conv.name for conv in convs if _groups(conv) > 1]
    if unclear := [name for name in grouped if not name or uses[name] > 1]:
        raise BadInput(f"a grouped convolution has the name {unclear[0]!r}; give each one a name of its own")
    stages: dict[str, list[str]] = {}
    for name, (groups, width) in _shapes(proto, grouped).items():
        match = _STAGE.fullmatch(name)
        stages.setdefault(match[1] if match else f"{groups}x{width}d", []).append(name)
    return stages


def _wider(proto: onnx.ModelProto, convs: Sequence[str]) -> Iterator[tuple[int, onnx.ModelProto]]:
    """``proto`` with ``convs`` merged to groups of twice their width, four times, and so on up to one group."""
    shapes, width = _shapes(proto, convs), _width(proto, convs)
    most = max(groups * each for groups, each in shapes.values())
    while width < most:
        width *= 2
        merged, _ = merged_from_onnx(proto, width, convs)
        if (found := _shapes(merged, convs)) != shapes:  # else the groups have no factor for this width
            shapes = found
            yield width, merged
        del merged


def _timer(proto: onnx.ModelProto, *, runtime: Runtime, batch: int, threads: int | None) -> Timer:
    """Open ``proto`` on ``runtime``, and warm it up. Both runtimes have finished when their call returns."""
    load_backend(runtime)  # says what is not installed
    feeds = _feeds(proto, batch)
    with _translated(runtime):
        run = _RUNNERS[runtime](proto, feeds, threads)
        run()
        began = time.perf_counter_ns()
        run()
        runs = max(1, min(1000, round(_VISIT_NS / max(1, time.perf_counter_ns() - began))))

    def visit() -> float:
        with _translated(runtime):
            if runs > 1:
                run()  # not timed: the caches still belong to the model before
            began = time.perf_counter_ns()
            for _ in range(runs):
                run()
            return (time.perf_counter_ns() - began) / runs / 1e6

    return visit


def _feeds(proto: onnx.ModelProto, batch: int) -> _Feeds:
    """Seeded inputs: pixels for integers, normally distributed values for floating-point numbers."""
    held = {tensor.name for tensor in proto.graph.initializer}
    random, feeds = np.random.default_rng(0), {}
    for value in (value for value in proto.graph.input if value.name not in held):
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        first, *shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim] or [-1]
        if first not in (0, batch) or not all(shape):
            known = " x ".join(str(size or "any") for size in (first, *shape))
            raise BadInput(f"input {value.name!r} is {known}: it must take {batch} images, and have no other free size")
        size = (batch, *shape)
        drawn = random.integers(0, 256, size) if kind.kind in "iu" else random.standard_normal(size, np.float32)
        feeds[value.name] = drawn.astype(kind)
    return feeds


def _ort_runner(proto: onnx.ModelProto, feeds: _Feeds, threads: int | None) -> Callable[[], object]:
    import onnxruntime as ort

    from resnext.backends.ort_session import PROVIDERS, session_options

    options = session_options(SessionOptions(threads=threads))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=[PROVIDERS["cpu"]])
    return partial(session.run, None, feeds)


def _openvino_runner(proto: onnx.ModelProto, feeds: _Feeds, threads: int | None) -> Callable[[], object]:
    from resnext.backends.openvino_session import hints, ov, properties

    core = ov.Core()
    model = core.read_model(proto.SerializeToString())
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    asked = {
        hints.inference_precision: ov.Type.f32,
        hints.performance_mode: hints.PerformanceMode.LATENCY,
        properties.num_streams: 1,
    }
    if threads is not None:
        asked[properties.inference_num_threads] = threads
    compiled = core.compile_model(model, "CPU", asked)
    if threads not in (None, given := compiled.get_property(properties.inference_num_threads)):
        raise SilentFallback(f"{threads} threads were asked for, and OpenVINO uses {given} on this machine")
    request = compiled.create_infer_request()
    for name, array in feeds.items():
        request.set_tensor(name, ov.Tensor(array))
    return partial(request.infer, share_outputs=True)


#: Opens a model over given inputs; what it gives runs the model once.
_RUNNERS: Mapping[str, Callable[[onnx.ModelProto, _Feeds, int | None], Callable[[], object]]] = MappingProxyType(
    {"ort": _ort_runner, "openvino": _openvino_runner}
)


@contextmanager
def _translated(runtime: Runtime) -> Iterator[None]:
    try:
        yield
    except ResnextError:
        raise
    except MemoryError as exc:
        raise MissingRequirement(f"{runtime}: out of memory while timing; use a smaller batch") from exc
    except Exception as exc:  # the runtimes' errors have no common base of their own
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        raise SessionFailed(f"{runtime} cannot run the model: {lines[-1] if lines else type(exc).__name__}") from exc
