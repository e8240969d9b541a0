"""The lens: opens a network on a runtime, times its layers, and sets them against their floors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.findings import Finding
from resnext.images.synthetic import seeded_pixels
from resnext.machine.environment import Environment, record_environment
from resnext.machine.load import Meter
from resnext.machine.nvml import open_nvml
from resnext.network.config import ResNeXtConfig, variant_name
from resnext.network.layers import layers
from resnext.precision import DEFAULT, NUMERICS, Precision
from resnext.runtimes.registry import RUNTIMES, SessionOptions, natural_runtime, runtime_named
from resnext.runtimes.session import LayerTime
from resnext.timing.clock import time_device, time_host
from resnext.verify.reference import Reference
from resnext.verify.subject import weights_of
from resnext_bench.artifacts import Artifacts
from resnext_bench.cases import (
    Candidate,
    candidates_of_artifacts,
    candidates_of_weights,
    merge_problem,
)
from resnext_bench.limits.ceilings import (
    Device,
    MachineCeilings,
    measured_ceilings,
    stored_ceilings,
)
from resnext_bench.limits.floors import LayerFloor, layer_floors
from resnext_bench.measure import Subject
from resnext_bench.opening import open_case
from resnext_bench.plan import Case

from .parts import Part, by_stage, parts_of
from .sentences import sentences

if TYPE_CHECKING:
    from resnext.artifact.manifest import Manifest
    from resnext.weights.spec import Weights

#: Profiled runs, and runs of the harness in turn with them.
RUNS = 11
#: Untimed runs before.
_WARM_RUNS = 3
#: The times of all layers as a share of a run: outside, they do not tell where its time goes.
_LEAST_SHARE, _MOST_SHARE = 0.8, 1.1
NO_SUM = "layers-do-not-add-up"
DISTURBED, DISTURBED_CEILINGS = "layers-disturbed", "ceilings-disturbed"


@dataclass(frozen=True)
class Lens:
    """Where the time of a network goes.

    Attributes:
        model: variant; None for another configuration.
        source: where the weights come from.
        backend: runtime.
        precision: requested.
        batch: images in one run.
        environment: the machine.
        ceilings: the most that it can do.
        notes: facts about the session: threads, memory format, ...
        run_ns: nanoseconds of the harness's runs, without profiling.
        layers: every layer that ran.
        stages: the same by stage and kind.
        findings: caveats.
        sentences: where the time goes.
    """

    model: str | None
    source: str
    backend: str
    precision: str
    batch: int
    environment: Environment
    ceilings: MachineCeilings
    notes: Mapping[str, str]
    run_ns: tuple[int, ...]
    layers: tuple[Part, ...]
    stages: tuple[Part, ...]
    findings: tuple[Finding, ...]
    sentences: tuple[str, ...]

    @property
    def layers_ns(self) -> float:
        """Nanoseconds of all layers."""
        return sum(part.ns for part in self.layers)

    @property
    def sum_share(self) -> float:
        """The time of all layers as a share of the median run."""
        return self.layers_ns / statistics.median(self.run_ns)


def look(
    subject: Artifact | Path | Weights,
    backend: str | None = None,
    *,
    batch: int = 1,
    precision: Precision | None = None,
    calibration: str | None = None,
    threads: int | None = None,
    ceilings: MachineCeilings | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Lens:
    """Time the layers of a network: on a CPU, or an engine's on a GPU.

    Args:
        subject: an artifact or its path, or weights, of which an artifact is built if the backend
            needs one.
        backend: runtime; None means the natural one of an artifact, PyTorch for weights.
        batch: images in one run.
        precision: of weights; an artifact must have it.
        calibration: calibration images, for int8 from weights; None means the training images of
            shipped weights.
        threads: CPU threads; None means one for each physical core.
        ceilings: the most that this machine can do; None measures it, unless it is in the cache.
        say: called with one line before each step.

    Raises:
        UsageError: the backend does not report times of layers.
        ResnextError: whatever opening and running raise.
    """
    weights, name, candidate = _candidate(subject, precision, calibration)
    if backend is None:
        artifact = candidate.artifact
        backend = "torch" if artifact is None else natural_runtime(artifact)
    backend = {"ort": "ort-cpu"}.get(backend, backend)
    _check_times(backend)
    case = Case(backend, batch, name)
    reference = Reference(weights, seeded_pixels(weights.config, batch))
    device: Device = "cuda" if RUNTIMES[backend].device == "cuda" else "cpu"
    options = SessionOptions(device, threads)
    with ExitStack() as stack:
        environment = record_environment(stack.enter_context(open_nvml()))
        artifacts = Artifacts(weights, (case,), options.device, say)
        opening = open_case(case, candidate, artifacts, reference, options, stack, say)
        if opening.subject is None:
            assert opening.error is not None
            raise opening.error
        say("timing the layers")
        meter = Meter()
        before = meter.read()
        times, run_ns = layer_times(opening.subject)
        disturbed = meter.since(before).disturbances(options.thread_count)
        notes = dict(opening.subject.session.delivered().notes)
    on_cpu = device == "cpu"
    ceilings = ceilings or _ceilings(
        environment, device, options.thread_count if on_cpu else None, say
    )
    manifest = None if opening.artifact is None else opening.artifact.manifest
    numerics = candidate.precision if manifest is None else manifest.numerics
    parts = tuple(_parts(times, weights.config, numerics, batch, manifest, ceilings))
    stages = by_stage(parts)
    merged = manifest is not None and manifest.merged is not None
    findings = (*sum_findings(times, run_ns), *disturbance_findings(disturbed, ceilings))
    return Lens(
        variant_name(weights.config),
        weights.source,
        backend,
        numerics,
        batch,
        environment,
        ceilings,
        notes,
        run_ns,
        parts,
        stages,
        findings,
        sentences(
            stages,
            mergeable=not merged and merge_problem(backend, "auto") is None,
            undisturbed=not findings,
        ),
    )


def layer_times(
    subject: Subject, runs: int = RUNS
) -> tuple[tuple[LayerTime, ...], tuple[int, ...]]:
    """The layers with their times, and nanoseconds of as many runs without profiling, in turn."""
    bound, run_ns = subject.bound, list[int]()

    def run() -> None:
        # Not warmed up: both sides then follow the other one.
        on_device = bound.cuda_stream is not None
        run_ns.extend(time_device(bound, 1)[0] if on_device else time_host(bound.enqueue, 1))

    for _ in range(_WARM_RUNS):
        bound.enqueue()
    times = subject.session.layer_times(subject.inputs, runs, run)
    return times, tuple(run_ns)


def sum_findings(times: tuple[LayerTime, ...], run_ns: tuple[int, ...]) -> Iterator[Finding]:
    """A warning if the times of all layers are not those of a run."""
    share = sum(time.ns for time in times) / statistics.median(run_ns)
    if not _LEAST_SHARE <= share <= _MOST_SHARE:
        reason = (
            "profiling slows them down" if share > 1 else "the runtime spends time between them"
        )
        yield Finding(
            NO_SUM,
            f"the layers add up to {share:.0%} of a run without profiling: the machine was"
            f" disturbed, or {reason}",
            "repeat it on a quiet machine, or with a larger `batch`",
            severity="warning",
        )


def disturbance_findings(
    disturbed: tuple[str, ...], ceilings: MachineCeilings
) -> Iterator[Finding]:
    """Warnings that other work ran beside the layers, or beside the measurement of the ceilings.

    Args:
        disturbed: what disturbed the layers.
        ceilings: says what disturbed them.
    """
    if disturbed:
        yield Finding(
            DISTURBED,
            f"the machine was disturbed while the layers were timed: {'; '.join(disturbed)}",
            "repeat it on a quiet machine",
            severity="warning",
        )
    if ceilings.disturbed:
        yield Finding(
            DISTURBED_CEILINGS,
            "floors may be too long: the machine was disturbed when its ceilings were measured:"
            f" {'; '.join(ceilings.disturbed)}",
            "measure them again on a quiet machine",
            severity="warning",
        )


def _candidate(
    subject: Artifact | Path | Weights, precision: Precision | None, calibration: str | None
) -> tuple[Weights, str, Candidate]:
    if isinstance(subject, Artifact | Path):
        network, candidates = candidates_of_artifacts(
            [subject], None, None if precision is None else [precision]
        )
        ((name, candidate),) = candidates.items()
        return weights_of(network), name, candidate
    ((name, candidate),) = candidates_of_weights([precision or DEFAULT], calibration, None).items()
    return subject, name, candidate


def _check_times(backend: str) -> None:
    """Check that sessions of ``backend`` report times of layers, before anything is built.

    Raises:
        UnknownName: no such backend.
        UsageError: they do not.
    """
    if not runtime_named(backend).times_layers:
        able = [name for name, runtime in RUNTIMES.items() if runtime.times_layers]
        raise UsageError(
            f"backend {backend!r} does not report times of layers",
            hint=f"use `backend` {', '.join(able)}",
        )


def _ceilings(
    environment: Environment, device: Device, threads: int | None, say: Callable[[str], None]
) -> MachineCeilings:
    """Those in the cache, or measured now, when the session is closed."""
    stored = stored_ceilings(environment, device, threads, say)
    if stored is None:
        say("measuring what this machine can do at most; kept in the cache")
        stored = measured_ceilings(environment, device, threads, say)
    return stored


def _parts(
    times: tuple[LayerTime, ...],
    config: ResNeXtConfig,
    numerics: str,
    batch: int,
    manifest: Manifest | None,
    ceilings: MachineCeilings,
) -> Iterator[Part]:
    skipped = frozenset() if manifest is None else manifest.left
    wider = NUMERICS[numerics].lowered_to or DEFAULT
    requested = {
        layer.name: wider if layer.name in skipped else numerics for layer in layers(config)
    }
    floors: dict[str, LayerFloor] = {}
    for precision in set(requested.values()):
        for floor in layer_floors(config, precision, batch, ceilings.ceiling(precision)):
            if requested[floor.layer.name] == precision:
                floors[floor.layer.name] = floor
    merged = {} if manifest is None or manifest.merged is None else manifest.merged.groups
    return parts_of(times, floors, requested, merged)
