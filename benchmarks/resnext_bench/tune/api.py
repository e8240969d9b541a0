"""The front door: weights and limits to the best artifact for this machine. The command is a shell
over `tune_artifact`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from resnext.artifact.files import check_destination
from resnext.artifact.manifest import WeightsRecord
from resnext.errors import BadInput, GateFailed, MissingRequirement
from resnext.machine.environment import Environment, cpu_features, record_environment
from resnext.machine.nvml import open_nvml
from resnext.machine.threads import thread_budget
from resnext.network.config import variant_name
from resnext.precision import Precision
from resnext.runtimes.registry import Device
from resnext.verify.labeled import Labeled
from resnext.weights.spec import Weights, load_weights
from resnext_bench.deadline import Deadline
from resnext_bench.limits.needed import Limits, needed_limits

from .board import Board
from .confirm import FreshProcesses
from .gates import KINDS, USUAL
from .output import write_output
from .record import Goal, TuneRecord
from .request import ACCURACY_IMAGES, Request, checked_request, threads_of, without_labeled
from .result import Tuned
from .search import Search
from .space import BASELINE, backends_of, baselines, check_calibration, points, static_refusals
from .state import earlier_search, keep, only_search, restore
from .workshop import Bench

#: A budget for a race takes as many times what its first candidate took.
_TIMES_FIRST = 4
#: Seconds that are advised if not even the first candidate was ready.
_LEAST_S = 60.0


def tune_artifact(
    weights: Weights | str | None = None,
    output: str | Path = "best",
    *,
    goal: Goal = "latency",
    slo: str | None = None,
    gate: str | None = None,
    backends: Sequence[str] | None = None,
    precision: Precision | Sequence[Precision] | None = None,
    batch: int | Sequence[int] | None = None,
    threads: int | Sequence[int] | None = None,
    streams: int | Sequence[int] | None = None,
    device: Device = "auto",
    calibration: str | None = None,
    calibration_images: int | None = None,
    accuracy: str | None = None,
    accuracy_images: int | None = None,
    seed: int = 0,
    budget: float | Deadline | None = None,
    resume: bool = False,
    force: bool = False,
    command: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Find the artifact that runs best on this machine among those that meet every gate.

    Every combination of runtime, precision, merged groups, batch, threads and streams that the
    machine offers is built, cheapest first, and proven: delivered precision, parity with float64
    PyTorch, accuracy on labeled images. What passes is timed in interleaved rounds; who is clearly
    slower than the leader drops out. The leader is measured again in fresh processes, beside the
    runner-up and eager PyTorch.

    A gate is a constraint: what misses one is never chosen, and what is not known does not pass.

    Args:
        weights: the network, loaded or by its SPEC (`load_weights`).
        output: folder for the artifact, ``tune.json`` and ``tune.html``, made whole or not at all.
            While the search runs, and after it was cut short, a file beside it, ``best.tune.json``
            for ``best``, keeps what is known.
        goal: ``latency``: the time of a run; ``throughput``: images per second.
        slo: limits on the time of a run: ``p99<=20ms``. A percentile is an upper bound with 99 %
            confidence, and has to be proven with enough runs.
        gate: other limits: ``agreement>=0.99,top1-loss<=1%,size<=50MB``. With labeled images and
            none of them named, agreement is at least 98 % and top-1 at most one point below
            PyTorch's.
        backends: runtimes; None means all that this machine has and that run artifacts.
        precision: of weights and activations; None means all.
        batch: images in one run; None means 1, and for throughput also 8, and 64 for a small
            network.
        threads: CPU threads; None means the thread budget (`resnext.machine.threads`).
        streams: requests in flight, which share the threads; None means 1, and for throughput also
            2 where the runtime can.
        device: for runtimes that run on either.
        calibration: images for int8 and fp8; None means the training images of shipped weights.
        calibration_images: their count; None means 128.
        accuracy: labeled images: ``digits``, ``fashion-mnist`` or a folder in ImageNet's layout;
            None means the test images of shipped weights.
        accuracy_images: size of a seeded sample of them; None means 1000.
        seed: of the images and of the order of visits.
        budget: seconds, or a `Deadline`: nothing is built after half of it, and the rest is for
            the race and for measuring the pick again. None for no limit. A search that is gone on
            with has all of it again.
        resume: go on with the search that was cut short: settled candidates are not repeated, and
            measured rounds count.
        force: replace the artifact in ``output``, and forget a search that was cut short.
        command: name and arguments, if a command calls this.
        progress: called with one line at every step.
        note: called with one line for what a user should know.

    Returns:
        Every candidate and why it fell; print its `Tuned.table`. `Tuned.pick` is None if no
        candidate passed: nothing is written to ``output`` then.

    Raises:
        UsageError: values out of range, limits that contradict each other, ``output`` is taken, or
            another search for it runs, or arguments that do not go together.
        UnknownName: an unknown gate, runtime or precision.
        BadInput: images that do not fit this network, or ``resume`` with another request.
        BadWeights: the weights cannot be used.
        MissingRequirement: no runtime that was asked for works here.
        GateFailed: the budget is too short for a single candidate.
    """
    output = Path(output)
    network = weights if isinstance(weights, Weights) else load_weights(weights)
    deadline = budget if isinstance(budget, Deadline) else Deadline(budget)
    request = checked_request(
        network,
        goal,
        slo=slo,
        gate=gate,
        backends=backends,
        precisions=(precision,) if isinstance(precision, str) else precision,
        batch=batch,
        threads=threads,
        streams=streams,
        device=device,
        calibration=calibration,
        calibration_images=calibration_images,
        accuracy=accuracy,
        accuracy_images=accuracy_images,
        seed=seed,
        budget=deadline.max_seconds,
    )
    check_destination(output, force=force or resume)
    with only_search(output), open_nvml() as nvml, ExitStack() as heeding:
        earlier = earlier_search(output, resume=resume, force=force)
        chosen = backends_of(request)
        if not check_calibration(request):
            note("int8 and fp8 are left out: name images to calibrate them on in `calibration`")
        request, labeled = _labeled(
            request, requested=accuracy is not None, say=progress, note=note
        )
        heeding.enter_context(deadline.heeding_signals())
        environment = record_environment(nvml)
        base = _base(request, environment, command)
        refusal = static_refusals(request, _limits(request, environment, deadline, progress))
        features = cpu_features()
        board = Board(request, refusal, features)
        for point in (*baselines(request), *points(request, chosen, refusal, features)):
            board.add(point)
        spent_s = 0.0
        if earlier is not None:
            restore(board, earlier, base)
            kept = {"created": earlier.created, "disturbed": earlier.disturbed}
            base = base.model_copy(update=kept)
            spent_s = earlier.spent_s
        workshop = Bench(request, list(board.points.values()), labeled, environment, progress)

        def recorded(*, complete: bool) -> Tuned:
            took_s = spent_s + deadline.spent_s()
            return search.recorded(base, spent_s=took_s, complete=complete)

        search = Search(
            request,
            board,
            workshop,
            FreshProcesses(request, workshop.parity_of, workshop.images, deadline, progress),
            refusal=refusal,
            deadline=deadline,
            say=progress,
            save=lambda: keep(recorded(complete=False), output),
            gpu_state=nvml.state,
        )
        if earlier is not None and earlier.complete and earlier.pick is not None:
            tuned = earlier  # which could not be written
        else:
            search.run()
            unknown = search.ended == "time" and search.pick is None
            tuned = recorded(complete=not unknown and not deadline.interrupted)
            keep(tuned, output)
        if tuned.pick is not None:
            artifact, point = search.artifact(tuned.pick), board.points[tuned.pick]
            write_output(tuned, artifact, point, request, output, force=force or resume)
    if search.ended == "time":
        _refuse_too_short(search, request)
    return tuned.placed(output)


def _labeled(
    request: Request,
    *,
    requested: bool,
    say: Callable[[str], None],
    note: Callable[[str], None],
) -> tuple[Request, Labeled | None]:
    """The labeled images; the request without them, if nobody asked for them and they are not
    there.
    """
    if request.accuracy is None:
        note("accuracy is not measured: name labeled images in `accuracy`")
        return request, None
    needed = requested or any(
        KINDS[gate.name].labeled and gate not in USUAL for gate in request.gates
    )
    say("labeled images in PyTorch, or reusing what the cache has")
    try:
        labeled = _sample(request.accuracy, request)
    except (MissingRequirement, BadInput) as exc:
        if needed:
            raise
        note(f"accuracy is not measured: {exc}")
        return without_labeled(request), None
    return replace(request, accuracy_images=len(labeled.source)), labeled


def _sample(spec: str, request: Request) -> Labeled:
    """As many labeled images as were asked for; by default `ACCURACY_IMAGES`, or all if there are
    fewer.
    """
    if request.accuracy_images is not None:
        return Labeled(spec, request.weights, request.accuracy_images)
    try:
        return Labeled(spec, request.weights, ACCURACY_IMAGES)
    except BadInput:
        return Labeled(spec, request.weights)


def _base(request: Request, environment: Environment, command: Sequence[str]) -> TuneRecord:
    """The record of the search before it begins."""
    weights = request.weights
    return TuneRecord(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        model=variant_name(weights.config),
        weights=WeightsRecord.model_validate(weights.provenance),
        goal=request.goal,
        gates=request.gates,
        accuracy_source=request.accuracy,
        budget_s=request.budget_s,
        spent_s=0.0,
        seed=request.seed,
        threads=thread_budget().count,
        margin=request.margin,
        environment=environment,
        complete=False,
        candidates=(),
        command=tuple(command),
    )


def _limits(
    request: Request,
    environment: Environment,
    deadline: Deadline,
    say: Callable[[str], None],
) -> Limits:
    """The ceilings of this machine, if a limit on time is to be held against them."""
    if not any(KINDS[gate.name].latency for gate in request.gates):
        return Limits()
    rows = [(BASELINE, threads_of(threads)) for threads in request.threads]
    timed_s = min(deadline.left_s(), 60.0)
    return needed_limits(rows, timed_s, request.device, environment, deadline, say)


def _refuse_too_short(search: Search, request: Request) -> None:
    """Refuse a budget in which no candidate was timed once.

    Raises:
        GateFailed: it was too short.
    """
    preparation = search.preparation
    first, ready, longest = preparation.first, preparation.ready, preparation.longest
    timed = any(search.board[name].rounds_ns for name in search.board)
    if timed or request.budget_s is None:
        return
    if first is None:
        why = "is too short for one candidate: half of it was over before the first could be built"
    elif longest is None or ready < 2:
        why = f"is too short for one candidate: {first[0]} took {first[1]:.1f} s to prepare"
    else:
        why = f"was over before a candidate was timed: {ready} of them were ready, and preparing"
        why += f" {longest[0]} took {longest[1]:.1f} s"
    least_s = max(2 * request.budget_s, _LEAST_S if first is None else _TIMES_FIRST * first[1])
    raise GateFailed(
        f"the budget of {request.budget_s:g} s {why}",
        hint=f"give a `budget` of at least {math.ceil(least_s)} s, and `resume`",
    )
