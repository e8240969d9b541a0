"""The group widths at which a graph runs fastest on this machine, found by timing: one choice for
each stage.

Whole networks are timed, since the cost of a width depends on what the runtime fuses and reorders
around it. A stage's candidates take turns, there and back in every round, and are compared within
rounds: a machine that slows down or speeds up meanwhile hits all of them alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import TypeAlias

import onnx

from resnext.errors import BadInput, UsageError
from resnext.progress import working
from resnext.timing.interleave import there_and_back, turns
from resnext.timing.paired import ratio
from resnext_export.passes.graph import convolutions
from resnext_export.passes.initializers import Constants
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.passes.merge_proof import prove_merge, weight_chain

from .model_timer import RUNNERS, Runtime, Timer, model_timer

#: Opens a model for timing.
Opener: TypeAlias = Callable[[onnx.ModelProto], Timer]

#: A wider choice must be faster than a narrower one by this factor: 2 %.
_WINS = 1.02
#: Widths within this factor of the best are compared with each other in the end.
_CLOSE = 1.1
#: A width that is slower than the best by this factor is out; two in a row end the widening.
_LOST = 1.3
#: The result must be faster than the original by this factor, measured again.
_PAYS = 1.01
#: Rounds of each width against the unmerged stage, of those that are close together, and of the
#: final measurement.
_ROUNDS, _LAST_ROUNDS, _FINAL_ROUNDS = 3, 4, 7

#: Widths that are tried for all stages alike in the end.
_UNIFORM = (16, 32, 64)

_STAGE = re.compile(r"(layer\d+)\..+")


@dataclass(frozen=True)
class StageTiming:
    """What one width of one stage took.

    Attributes:
        stage: its name.
        width: input channels of each group of the stage's narrowest convolution.
        median_ms: of one run of the whole network, earlier stages as they were chosen.
        ratio: to the time of the same network with this stage unmerged, the median over rounds;
            below 1 is faster.
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
        speedup: how many times as fast as the original ``proto`` runs, measured again at the end; 1
            if it is the original.
        proto: the merged model, or the original itself if no merge pays.
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

    A stage is what shares ``layer1`` in names such as ``layer1.0.conv2``; convolutions of other
    names are taken by groups and width (``32x4d``). Stages are decided one after the other, each on
    top of the earlier choices: as it is, or any width that doubles from there, up to one group.
    Every merge that is accepted is proven by `prove_merge`. Each width takes some fifteen runs of
    the whole model, and a stage of ResNeXt-50 has five.

    Args:
        proto: the model, weights inside, float or Q/DQ, its first dimension the batch; left as it
            is.
        runtime: that it will run on.
        batch: images at a time.
        threads: of the runtime; None means the thread budget.
        open_timer: opens a model for timing, in place of ``runtime``.

    Returns:
        The choice, with all that was timed.

    Raises:
        UsageError: an unknown runtime, or ``batch`` or ``threads`` is below 1.
        BadInput: the input has other unknown dimensions than the batch, or another batch; or
            grouped convolutions cannot be told apart by name.
        BadArtifact: a weight is no constant of the file, or quantized along another axis than its
            output channels.
        GateFailed: a merge is not the same function.
        MissingRequirement: the runtime is not installed.
        SilentFallback: the runtime uses fewer threads than requested.
        SessionFailed: the runtime refuses the model or fails while running it.
    """
    if runtime not in RUNNERS:
        raise UsageError(f"unknown runtime {runtime!r}; known: {', '.join(RUNNERS)}")
    if batch < 1 or (threads is not None and threads < 1):
        raise UsageError(f"batch and threads must be at least 1, got {batch} and {threads}")
    opened = open_timer or partial(model_timer, runtime=runtime, batch=batch, threads=threads)
    stages = _stages(proto)
    timings: list[StageTiming] = []
    if not stages:
        return MergeChoice({}, (), 1.0, proto)
    merged, timer = proto, opened(proto)
    for number, (stage, convs) in enumerate(stages.items(), 1):
        with working(f"timing group widths of {stage} ({number} of {len(stages)}) on {runtime}"):
            merged, timer, timed = _fastest(merged, timer, stage, convs, opened)
        timings += timed
    del timer  # the last measurement opens both models again
    with working(f"timing the merged model against the original on {runtime}"):
        merged, speedup = _final(proto, merged, opened)
    widths = {stage: _width(merged, convs) for stage, convs in stages.items()}
    return MergeChoice(widths, tuple(timings), speedup, merged)


def _final(
    proto: onnx.ModelProto, chosen: onnx.ModelProto, opened: Opener
) -> tuple[onnx.ModelProto, float]:
    """The fastest of the original, what was chosen stage by stage, and one width for all; how much
    faster it is.

    The stages' choices are each within the noise of a busy machine, and stages that share a width
    may win together.
    """
    models = [] if chosen is proto else [chosen]
    for width in _UNIFORM:
        merged, changed, *_ = MergeGroups(width).apply(proto)
        if changed and all(_shapes(merged, changed) != _shapes(other, changed) for other in models):
            models.append(merged)
    if not models:
        return proto, 1.0
    base, rivals = (
        _Candidate(1, 1, opened(proto)),
        [(model, _Candidate(1, 1, opened(model))) for model in models],
    )
    _take_turns(base, [one for _, one in rivals], _FINAL_ROUNDS)
    best, speedup = proto, 1.0
    for merged, one in rivals:
        faster = ratio(base.times, one.times).median
        if faster > (_PAYS if merged is chosen else speedup * _WINS):
            best, speedup = merged, faster
    if best is not proto and best is not chosen:
        prove_merge(proto, best)
    return best, speedup


@dataclass
class _Candidate:
    """A width of a stage, and the milliseconds that it and the unmerged stage took in the same
    rounds.
    """

    least_width: int
    width: int
    timer: Timer
    times: list[float] = field(default_factory=list)
    base_times: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """To the time of the unmerged stage."""
        return ratio(self.times, self.base_times).median

    def timing(self, stage: str) -> StageTiming:
        return StageTiming(stage, self.width, median(self.times), self.ratio())


def _fastest(
    proto: onnx.ModelProto, timer: Timer, stage: str, convs: Sequence[str], opened: Opener
) -> tuple[onnx.ModelProto, Timer, list[StageTiming]]:
    """``proto``, or its fastest merge of the convolutions of ``stage`` if one is faster; its timer;
    what was timed.
    """
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
        if ratio(winner.times, one.times).median > _WINS:
            winner = one
    timings = sorted(
        [*lost, *(one.timing(stage) for one in (base, *held))], key=lambda timing: timing.width
    )
    if winner is base:
        return proto, timer, timings
    merged = MergeGroups(winner.least_width, convs).apply(proto).proto
    prove_merge(proto, merged)
    return merged, winner.timer, timings


def _take_turns(base: _Candidate, others: Sequence[_Candidate], rounds: int) -> None:
    """Time ``base`` and ``others`` for ``rounds``, each there and back: a steady drift falls out of
    the sums.
    """
    everyone = (base, *others)
    visits: list[list[float]] = [[] for _ in everyone]
    for _, place in turns(range(len(everyone)), rounds, there_and_back):
        visits[place].append(everyone[place].timer())
    for one, taken in zip(everyone, visits, strict=True):
        one.times += [fmean(pair) for pair in zip(taken[::2], taken[1::2], strict=True)]
        one.base_times += base.times[-rounds:]


def _shapes(proto: onnx.ModelProto, convs: Collection[str]) -> dict[str, tuple[int, int]]:
    """Groups of each of ``convs``, and input channels of a group, in graph order."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    constants, layers = Constants(proto.graph), {}
    for conv in convolutions(proto.graph, convs):
        last = weight_chain(conv, makers, constants)[-1]
        layers[conv.name] = _groups(conv), constants[last.input[1 if last is conv else 0]].dims[1]
    return layers


def _groups(conv: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)


def _width(proto: onnx.ModelProto, convs: Sequence[str]) -> int:
    return min(width for _, width in _shapes(proto, convs).values())


def _stages(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the grouped convolutions by stage, in graph order."""
    MergeGroups(1).requires(proto)
    convs = convolutions(proto.graph, None)
    uses, grouped = (
        Counter(conv.name for conv in convs),
        [conv.name for conv in convs if _groups(conv) > 1],
    )
    if unclear := [name for name in grouped if not name or uses[name] > 1]:
        raise BadInput(
            f"a grouped convolution has the name {unclear[0]!r}; give each one a unique name"
        )
    stages: dict[str, list[str]] = {}
    for name, (groups, width) in _shapes(proto, grouped).items():
        match = _STAGE.fullmatch(name)
        stages.setdefault(match[1] if match else f"{groups}x{width}d", []).append(name)
    return stages


def _wider(proto: onnx.ModelProto, convs: Sequence[str]) -> Iterator[tuple[int, onnx.ModelProto]]:
    """``proto`` with ``convs`` merged to groups of twice their width, four times, and so on up to
    one group.
    """
    shapes, width = _shapes(proto, convs), _width(proto, convs)
    most = max(groups * each for groups, each in shapes.values())
    while width < most:
        width *= 2
        merged = MergeGroups(width, convs).apply(proto).proto
        if (
            merged_shapes := _shapes(merged, convs)
        ) != shapes:  # else the groups have no factor for this width
            shapes = merged_shapes
            yield width, merged
        del merged
