"""Two arms from their names to a verdict: open, measure, compare the outputs, judge."""

from __future__ import annotations

import datetime
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.manifest import WeightsRecord
from resnext.errors import UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.machine.threads import thread_budget
from resnext.network.config import variant_name
from resnext.timing.change import LEAST_ROUNDS, MARGIN, Change, between_processes, paired
from resnext.verify.parity import Parity, images_to_compare
from resnext.verify.reference import Reference
from resnext.weights.spec import Weights
from resnext_bench.deadline import Deadline

from .arms import Arm, Choices, arms_of
from .process import Worker
from .protocol import Job, Opened
from .record import ArmRecord, Duel, Round
from .rounds import MOST_REPEATS, Schedule, measure_rounds, undisturbed

#: Rows of a batch whose logits are compared, first and last among them.
_COMPARED_ROWS = 16


@dataclass(frozen=True)
class Timing:
    """How long is measured.

    Attributes:
        rounds: number of undisturbed rounds of each pair of processes.
        duration_s: timed seconds of each arm, over these rounds.
        warmup_s: untimed seconds of each arm before the first.
        processes: pairs of fresh processes; None for one pair, and an interval over its rounds.
        max_seconds: no further round begins after this time; None for no limit.
    """

    rounds: int = 12
    duration_s: float = 5.0
    warmup_s: float = 0.5
    processes: int | None = None
    max_seconds: float | None = None


def duel(
    a: str,
    b: str | None = None,
    *,
    choices: Choices | None = None,
    weights: Weights | str | None = None,
    python: Path | None = None,
    timing: Timing | None = None,
    threads: int | None = None,
    margin: float = MARGIN,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Duel:
    """Measure B against A, each in its own process, in interleaved rounds.

    Args:
        a: a backend, or the folder of an artifact.
        b: the same; None means ``a``, in the environment of ``python``.
        choices: what both have in common.
        weights: loaded or by SPEC; None means those of the first artifact, or without one the
            seeded ResNeXt-50 32x4d. An artifact of other weights of the same network has its own.
        python: interpreter of the environment that B runs in; None means this one.
        timing: how long is measured.
        threads: CPU threads of each; None means the thread budget of this process.
        margin: share that counts as no change.
        seed: of the test images and of the order of visits.
        progress: called with one line at every step.

    Returns:
        Times, outputs compared with float64 PyTorch, and the verdict. An arm with wrong outputs has
        no verdict.

    Raises:
        UsageError: nothing to compare with, or a backend cannot run its subject.
        UnknownName: a subject is neither a backend nor a path.
        MissingRequirement: an environment lacks something.
        SessionFailed: a process failed, died or hung.
        GateFailed: time ran out before the first round.
    """
    if b is None and python is None:
        raise UsageError("there is no B", hint="name one, or another environment in `python`")
    choices, timing = choices or Choices(), timing or Timing()
    deadline = Deadline(timing.max_seconds)
    if python is not None:
        progress(f"asking {python} for its toolkit")
        with Worker("arm B", python):  # before minutes of building
            pass
    arms = arms_of((a, b or a), choices, weights, python, progress)
    weights = arms[0].weights
    count = images_to_compare(choices.batch, weights.config.num_classes)
    pixels = seeded_pixels(weights.config, count, seed)
    references = [Reference(weights, pixels)] * 2
    if arms[1].weights is not weights:
        references[1] = Reference(arms[1].weights, pixels)
    threads = threads or thread_budget().count
    jobs = [_job(arm, choices, count, seed, threads, timing.warmup_s) for arm in arms]
    opened: list[Opened] = []
    outputs: list[NDArray[Any]] = []
    measured: list[Round] = []
    for pair in range(timing.processes or 1):
        if pair and deadline.over():
            break
        with ExitStack() as stack:
            progress(f"starting pair {pair + 1}" if timing.processes else "starting both arms")
            workers = [stack.enter_context(Worker(str(arm), arm.python)) for arm in arms]
            opened = []
            for arm, worker, job in zip(arms, workers, jobs, strict=True):
                progress(f"{arm}: opening {arm.backend} at batch {choices.batch}")
                opened.append(worker.open(job))
            on_cpu = any(not each.device.startswith("cuda") for each in opened)
            estimates = (opened[0].estimate_ns, opened[1].estimate_ns)
            measured += measure_rounds(
                (workers[0], workers[1]),
                estimates,
                Schedule(timing.rounds, timing.duration_s, seed, threads if on_cpu else 1),
                pair=pair,
                over=deadline.over,
                say=progress,
            )
            if not measured:
                raise deadline.not_measured()
            if measured[-1].pair == pair:
                runs = -(-count // choices.batch)
                outputs = [
                    worker.logits(runs * estimate / 1e9)
                    for worker, estimate in zip(workers, estimates, strict=True)
                ]
    progress("comparing the outputs")
    parities = [
        _parity(reference, arm, logits, choices.batch)
        for reference, arm, logits in zip(references, arms, outputs, strict=True)
    ]
    change = _judged(measured, timing.processes, margin)
    if wrong := [str(arm) for arm, each in zip(arms, parities, strict=True) if not each.passed]:
        reason = f"the output of {' and '.join(wrong)} is wrong"
        change = replace(change, verdict="CANNOT TELL", more=None, reason=reason)
    first, second = (
        _record(index, arm, opened[index], parities[index], measured, weights)
        for index, arm in enumerate(arms)
    )
    return Duel(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        model=variant_name(weights.config),
        weights=WeightsRecord.model_validate(weights.provenance),
        batch=choices.batch,
        threads=threads,
        seed=seed,
        duration_s=timing.duration_s,
        rounds=timing.rounds,
        processes=timing.processes,
        arms=(first, second),
        measured=tuple(measured),
        change=change,
    )


def _job(
    arm: Arm,
    choices: Choices,
    images: int,
    seed: int,
    threads: int,
    warmup_s: float,
) -> Job:
    return Job.of(
        arm.weights,
        arm.artifact,
        backend=arm.backend,
        precision=arm.precision,
        batch=choices.batch,
        images=images,
        seed=seed,
        device=choices.device,
        threads=threads,
        warmup_s=warmup_s,
    )


def _parity(reference: Reference, arm: Arm, logits: NDArray[Any], batch: int) -> Parity:
    """Parity of some rows of the batch and of all images after it, as a benchmark judges it."""
    spread = np.unique(np.linspace(0, batch - 1, _COMPARED_ROWS).astype(int)).tolist()
    rows = [*spread, *range(batch, len(reference.pixels))]
    manifest = None if arm.artifact is None else arm.artifact.manifest
    complete = logits.shape[:1] == (len(reference.pixels),)
    return reference.parity(
        logits[rows] if complete else logits,
        arm.precision if manifest is None else manifest.numerics,
        arm.artifact,
        graph=arm.graph,
        dtype="float32" if manifest is None else manifest.outputs[0].dtype,
        rows=rows,
    )


def _judged(measured: Sequence[Round], processes: int | None, margin: float) -> Change:
    """The change over rounds, or over pairs of processes; none if the machine was disturbed."""
    if processes is None:
        change = paired([each.log_ratio for each in undisturbed(measured)], margin)
        enough = change.count >= LEAST_ROUNDS
    else:
        pairs = [[each for each in measured if each.pair == pair] for pair in range(processes)]
        quiet = [undisturbed(pair) for pair in pairs if not _too_disturbed(pair)]
        change = between_processes(
            [statistics.median(each.log_ratio for each in pair) for pair in quiet], margin
        )
        enough = len(quiet) == len([pair for pair in pairs if pair])
    disturbed = [each for each in measured if each.disturbances]
    if not disturbed or (enough and not _too_disturbed(measured)):
        return change
    causes = Counter(
        cause.partition(" (")[0] for each in disturbed for cause in dict.fromkeys(each.disturbances)
    )
    names = " and ".join(cause for cause, _ in causes.most_common())
    reason = f"{len(disturbed)} of {len(measured)} rounds were disturbed by {names}"
    return replace(change, verdict="CANNOT TELL", more=None, reason=reason)


def _too_disturbed(measured: Sequence[Round]) -> bool:
    """Whether too small a share of rounds is undisturbed to believe that these are."""
    return len(undisturbed(measured)) * MOST_REPEATS < max(1, len(measured))


def _record(
    index: int,
    arm: Arm,
    opened: Opened,
    parity: Parity,
    measured: Sequence[Round],
    weights: Weights,
) -> ArmRecord:
    times = [time for each in undisturbed(measured) for time in each.times_ns[index]]
    return ArmRecord(
        name="A" if index == 0 else "B",
        subject=arm.subject,
        backend=arm.backend,
        precision=arm.precision,
        artifact_sha256=None if arm.artifact is None else arm.artifact.manifest.file_sha256,
        other_environment=arm.python is not None,
        environment=opened.environment,
        device=opened.device,
        delivered=opened.delivered,
        notes=opened.notes,
        median_ns=statistics.median(times) if times else None,
        parity=parity,
        weights=None
        if arm.weights is weights
        else WeightsRecord.model_validate(arm.weights.provenance),
    )
