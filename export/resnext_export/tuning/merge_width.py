"""The group widths at which a graph runs fastest on this machine, found by timing: one choice for
each stage.

Whole networks are timed, since the cost of a width depends on what the runtime fuses and reorders
around it. A stage's widths run a race (`resnext.timing.race`), there and back in every round: a
machine that slows down or speeds up meanwhile hits all of them alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import TypeAlias

import onnx

from resnext.errors import BadInput, UsageError
from resnext.progress import working
from resnext.timing.interleave import there_and_back, turns
from resnext.timing.race import Race, Rules
from resnext_export.passes.graph import convolutions
from resnext_export.passes.initializers import Constants
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.passes.merge_proof import prove_merge, weight_chain

from .model_timer import RUNNERS, Runtime, Timer, model_timer

#: Opens a model for timing.
Opener: TypeAlias = Callable[[onnx.ModelProto], Timer]

#: A wider choice must be faster than a narrower one by this share, and the result faster than the
#: original, measured again.
_WINS, _PAYS = 0.02, 0.01
#: A width leaves if it is a tenth slower than the fastest in two rounds: far more than visits vary
#: by, there and back.
_RULES = Rules(early_factor=1.1, margin=_WINS)
#: Two widths in a row that are slower than the fastest by this factor end the widening.
_LOST = 1.3
#: Rounds of those that are left in the end, and of the final measurement.
_LAST_ROUNDS, _FINAL_ROUNDS = 4, 7

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
    Every merge that is accepted is proven by `prove_merge`. Each width takes 8 to 20 runs of the
    whole model, and a stage of ResNeXt-50 has five.

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
    stages = stages_of(proto)
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
    race = Race(range(1 + len(models)), _RULES)
    timers = dict(enumerate([opened(proto), *(opened(model) for model in models)]))
    for _ in range(_FINAL_ROUNDS):
        # The speedup over the original is wanted even if the original is out.
        race.add(_there_and_back(timers, {0: None, **dict.fromkeys(race.in_race)}))
    best, speedup = proto, 1.0
    for place, merged in enumerate(models, 1):
        faster = _ratio(race, 0) / _ratio(race, place)
        if faster > (1 + _PAYS if merged is chosen else speedup * (1 + _WINS)):
            best, speedup = merged, faster
    if best is not proto and best is not chosen:
        prove_merge(proto, best)
    return best, speedup


def _fastest(
    proto: onnx.ModelProto, timer: Timer, stage: str, convs: Sequence[str], opened: Opener
) -> tuple[onnx.ModelProto, Timer, list[StageTiming]]:
    """``proto``, or its fastest merge of the convolutions of ``stage`` if one is faster; its timer;
    what was timed.
    """
    unmerged = _width(proto, convs)
    race, timers, least_widths = Race([unmerged], _RULES), {unmerged: timer}, {unmerged: 1}
    taken: dict[int, list[float]] = {}

    def run(widths: Iterable[int]) -> None:
        times = _there_and_back(timers, widths)
        for width, ms in times.items():
            taken.setdefault(width, []).append(ms)
        race.add(times)
        for width, verdict in race.dropped.items():
            if verdict.ratio > 1 + _WINS:  # its session is freed
                timers.pop(width, None)

    slow_in_a_row = 0
    for least_width, merged in _wider(proto, convs):
        width, fastest = _width(merged, convs), race.leader or unmerged
        timers[width], least_widths[width] = opened(merged), least_width
        del merged  # the best is made again in no time, and candidates are many
        race.join(width)
        for _ in range(_RULES.early_rounds):
            run((fastest, width))
        verdict = race.dropped.get(width)
        slow_in_a_row = slow_in_a_row + 1 if verdict and verdict.ratio > _LOST else 0
        if slow_in_a_row == 2:
            break
    # The fewer are left, the more rounds they get: two runs more for each width that was tried.
    for _ in range(_LAST_ROUNDS + 2 * (len(least_widths) - 1) // len(race.in_race)):
        if race.ended is not None:
            break
        run(race.in_race)
    winner = min(width for width in timers if _ratio(race, width) <= 1 + _WINS)
    ratios = {width: _ratio(race, width) / _ratio(race, unmerged) for width in taken}
    timings = [
        StageTiming(stage, width, median(taken[width]), ratios[width]) for width in sorted(taken)
    ]
    if winner == unmerged:
        return proto, timer, timings
    merged = MergeGroups(least_widths[winner], convs).apply(proto).proto
    prove_merge(proto, merged)
    return merged, timers[winner], timings


def _there_and_back(timers: Mapping[int, Timer], names: Iterable[int]) -> dict[int, float]:
    """Milliseconds of each of ``names`` in one round, there and back: a steady drift falls out of
    the sums.
    """
    visits: dict[int, list[float]] = {name: [] for name in names}
    for _, name in turns(list(visits), 1, there_and_back):
        visits[name].append(timers[name]())
    return {name: fmean(taken) for name, taken in visits.items()}


def _ratio(race: Race[int], name: int) -> float:
    """The time of ``name``, which ran in ``race``, over the fastest's."""
    ratio = race.ratio(name)
    assert ratio is not None
    return ratio


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


def stages_of(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the grouped convolutions by stage, in graph order: ``layer1`` of
    ``layer1.0.conv2``; of other names, groups and width (``32x4d``).

    Raises:
        BadInput: a grouped convolution has no name, or not a unique one.
        BadArtifact: a weight is no constant of the file.
    """
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
