"""One benchmark from weights to stored result: build or reuse, open, measure, compare, judge."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange, WeightsRecord
from resnext.artifact.records import EngineOptions
from resnext.errors import BadInput, ResnextError
from resnext.images.synthetic import seeded_pixels
from resnext.machine.environment import record_environment, record_packages
from resnext.machine.nvml import open_nvml
from resnext.network.config import variant_name
from resnext.precision import QUANTIZED, Precision
from resnext.runtimes.availability import require
from resnext.runtimes.registry import (
    RUNTIMES,
    SessionOptions,
    check_precision,
    load_door,
    open_session,
)
from resnext.runtimes.session import Delivered
from resnext.timing.clock import now_ns
from resnext.timing.paired import ratio_by_round
from resnext.verify.accuracy import accuracy_failures
from resnext.verify.labelled import Labelled
from resnext.verify.parity import Parity, compare, gate_for, gate_of
from resnext.verify.reference import Reference

from .checks import reasons_against
from .deadline import Deadline
from .measure import Samples, Subject, as_failure, measure
from .memory import Peak, peak_memory
from .plan import Cell, Plan
from .result import Row, Run, Timing
from .stats import derive

if TYPE_CHECKING:
    from resnext.runtimes.trt.library import EngineKind
    from resnext.weights.spec import Weights
    from resnext_export.store import Built

Say = Callable[[str], None]
#: Least width of groups in channels; ``auto`` is the fastest by a trial, None leaves the groups
#: alone.
Merge: TypeAlias = int | Literal["auto"] | None
#: Rows of a batch whose logits are compared, first and last among them.
_COMPARED_ROWS = 16


@dataclass(frozen=True)
class Variant:
    """What cells of one kind run.

    Attributes:
        precision: of weights and activations.
        artifact: what ONNX backends run; None means the cache's.
        calibration: images that a quantized artifact takes its ranges from, where the cache has to
            make one, and how many; None for either means the default.
        merge: input channels that each group has at least in what is made, or ``auto``; None leaves
            groups alone.
    """

    precision: Precision = "fp32"
    artifact: Artifact | None = None
    calibration: tuple[str | None, int | None] = (None, None)
    merge: Merge = None


@dataclass
class _Opened:
    """What opening a cell gave: a subject to measure, or the error."""

    subject: Subject | None = None
    error: ResnextError | None = None
    artifact: Artifact | None = None
    peak: Peak = field(default_factory=Peak)
    setup_s: float | None = None
    bind_s: float | None = None


def run_benchmark(
    weights: Weights,
    plan: Plan,
    *,
    artifact: Artifact | None = None,
    options: SessionOptions | None = None,
    precision: Precision = "fp32",
    variants: Mapping[str, Variant] | None = None,
    accuracy: Labelled | None = None,
    deadline: Deadline | None = None,
    say: Say = lambda _: None,
) -> Run:
    """Measure every cell of ``plan``.

    Args:
        weights: the network; the reference of every row's parity.
        plan: what and how long.
        artifact: what ONNX backends run; None means the cache's, exported now where it is not there
            yet.
        options: device, threads, memory format, CUDA graphs.
        precision: asked for.
        variants: several artifacts and precisions, by what cells call them; then ``artifact`` and
            ``precision`` are not looked at.
        accuracy: labelled images that every row is held against as well, or None.
        deadline: when to open and measure nothing more; None for no limit. Outputs of what was
            measured are compared after it all the same, but labelled images are not run. While
            measuring and comparing, the deadline's signals count as its end; while cells are opened
            they do what they did before.
        say: called with one line at every step.

    Returns:
        The run. A backend that fails has a row that says why; the others go on.
    """
    deadline = deadline or Deadline()
    options = options or SessionOptions()
    variants = variants or {"": Variant(precision, artifact)}
    largest = max(cell.batch for cell in plan.cells)
    images = Reference(weights, seeded_pixels(weights.config, largest, plan.seed))
    reused: list[str] = []
    sources = {
        name: _ArtifactSource(
            weights,
            variant,
            [cell for cell in plan.cells if cell.variant == name],
            reused,
            say,
            options.device,
        )
        for name, variant in variants.items()
    }
    with ExitStack() as stack:
        nvml = stack.enter_context(open_nvml())
        environment = record_environment(nvml)
        opened = {
            cell: _Opened(error=deadline.not_measured())
            if deadline.opening_over()
            else _open(cell, sources[cell.variant], weights, images, options, stack, say)
            for cell in plan.cells
        }
        subjects = {
            cell: found.subject for cell, found in opened.items() if found.subject is not None
        }
        stack.enter_context(deadline.heeding_signals())
        samples = measure(subjects, plan, say, deadline, nvml.state)
        environment = environment.model_copy(
            update={"packages": record_packages()}
        )  # now that they are imported
        rows = []
        for cell in plan.cells:
            say(f"comparing the outputs of {cell}")
            source = sources[cell.variant]
            rows.append(
                _row(cell, opened[cell], samples, images, weights, source, accuracy, deadline)
            )
    return Run(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        model=variant_name(weights.config),
        weights=WeightsRecord(source=weights.source, sha256=weights.sha256),
        precision=", ".join(dict.fromkeys(variant.precision for variant in variants.values())),
        duration_s=plan.duration_s,
        rounds=plan.rounds,
        seed=plan.seed,
        threads=options.threads,
        reused=tuple(reused),
        environment=environment,
        rows=_with_speedups(rows),
    )


class _ArtifactSource:
    """The artifacts that the cells of one variant run: the one given, or the cache's, each asked
    for once.

    An ONNX artifact that is given serves the engine backends too: engines are built from it. A
        package is compiled
    from the weights, which are the same.
    """

    def __init__(
        self,
        weights: Weights,
        variant: Variant,
        cells: list[Cell],
        reused: list[str],
        say: Say,
        device: Literal["auto", "cpu", "cuda"],
    ) -> None:
        self.variant = variant
        self._weights = weights
        self._cells = cells
        self._reused = reused
        self._say = say
        self._device = device
        self._made: dict[tuple[str, str], Artifact] = {}

    def given(self, backend: str) -> Artifact | None:
        """The artifact that ``backend`` runs as it was given; None if the cache's, or one made
        now.
        """
        given = self.variant.artifact
        runs_it = given is not None and (
            RUNTIMES[backend].formats[0] == "onnx" or given.manifest.kind != "onnx"
        )
        return given if runs_it else None

    def get(self, cell: Cell) -> Artifact:
        """What ``cell`` runs."""
        kind = RUNTIMES[cell.backend].formats[0]
        if (given := self.given(cell.backend)) is not None:
            return given
        if kind == "pt2":
            return self._kept((kind, str(cell.batch)), lambda: self._package(cell.batch))
        return self._once(kind, _form(cell.backend), cell.batch)

    def onnx(self, cell: Cell) -> Artifact | None:
        """The ONNX artifact that ``cell``'s was made of, or that it runs; None where only an engine
        was given.
        """
        given = self.variant.artifact
        if given is not None:
            return given if given.manifest.kind == "onnx" else None
        return self._once("onnx", _form(cell.backend), cell.batch)

    def _once(self, kind: str, form: str, batch: int) -> Artifact:
        # Only quantized graphs have a form for each runtime, and only a trial depends on runtime
        # and batch.
        timed = self.variant.merge == "auto"
        key = (
            kind,
            f"{form} {batch}" if timed else form if self.variant.precision in QUANTIZED else "",
        )
        if kind == "onnx":
            return self._kept(key, partial(self._onnx, form, batch))
        return self._kept(key, partial(self._engine, cast("EngineKind", kind), form, batch))

    def _kept(self, key: tuple[str, str], make: Callable[[], Built]) -> Artifact:
        if key not in self._made:
            built = make()
            self._made[key] = built.artifact
            if built.reused:
                self._reused.append(
                    f"{built.artifact.path} (sha256 {built.artifact.manifest.file_sha256[:12]})"
                )
        return self._made[key]

    def _package(self, batch: int) -> Built:
        import torch

        from resnext_export.store import pt2_or_reuse

        check_precision("pt2", self.variant.precision)
        # One for each batch size, so that a row is the same whatever else is measured beside it.
        self._say(f"compiling the package for batch {batch}, or reusing what the cache has")
        cuda = self._device == "cuda" or (self._device == "auto" and torch.cuda.is_available())
        return pt2_or_reuse(
            self._weights, batch, precision=self.variant.precision, device="cuda" if cuda else "cpu"
        )

    def _onnx(self, form: str, batch: int) -> Built:
        from resnext_export.store import onnx_or_reuse

        self._say("exporting to ONNX, or reusing what the cache has")
        variant = self.variant
        return onnx_or_reuse(
            self._weights,
            variant.precision,
            form,
            variant.calibration,
            merge=variant.merge,
            batch=batch,
        )

    def _engine(self, kind: EngineKind, form: str, batch: int) -> Built:
        from resnext_export.store import engine_or_reuse

        # An optimization profile for each batch size that is measured: kernels are chosen for
        # exactly these.
        sizes = dict.fromkeys(
            cell.batch for cell in self._cells if RUNTIMES[cell.backend].formats[0] == kind
        )
        profiles = tuple(BatchRange(min=size, opt=size, max=size) for size in sizes)
        parent = self.variant.artifact or self._once("onnx", form, batch)
        self._say("building the engine, or reusing what the cache has")
        return engine_or_reuse(parent, self._weights, kind, EngineOptions(profiles=profiles))


def _form(backend: str) -> str:
    """Whose form of a quantized graph ``backend`` wants."""
    return "openvino" if backend == "openvino" else "trt" if "trt" in backend else "ort"


def _open(
    cell: Cell,
    source: _ArtifactSource,
    weights: Weights,
    images: Reference,
    options: SessionOptions,
    stack: ExitStack,
    say: Say,
) -> _Opened:
    found = _Opened()
    try:
        subject: Weights | Artifact = weights
        kind = RUNTIMES[cell.backend].formats[0]
        # Before anything is exported for a backend that cannot run.
        require(cell.backend, options.device, given=source.given(cell.backend) is not None)
        load_door(cell.backend)  # not to count importing as memory
        if kind != "weights":
            subject = found.artifact = source.get(cell)
            manifest = found.artifact.manifest
            if not manifest.takes(cell.batch):
                raise BadInput(
                    f"{found.artifact.path} takes batch {manifest.batches()}, not {cell.batch}"
                )
        say(f"opening {cell}")
        cuda = options.device != "cpu" and RUNTIMES[cell.backend].device != "cpu"
        with peak_memory(cuda=cuda) as found.peak:
            before = now_ns()
            session = stack.enter_context(
                open_session(subject, cell.backend, options=_for(cell, source, options))
            )
            pool = images.inputs(None if found.artifact is None else found.artifact.manifest)
            wanted = session.inputs[0]
            inputs = {wanted.name: np.ascontiguousarray(wanted.given(pool[: cell.batch]))}
            opened = now_ns()
            bound = session.bind(inputs)
            found.bind_s = (now_ns() - opened) / 1e9
            found.setup_s = (now_ns() - before) / 1e9
        found.subject = Subject(session, inputs, bound)
    except Exception as exc:  # whatever a runtime raises ends its own cell alone
        found.error = as_failure(exc)
    return found


def _for(cell: Cell, source: _ArtifactSource, options: SessionOptions) -> SessionOptions:
    """``options`` with the cell's precision and a device that its backend can be asked for."""
    options = replace(
        options, precision=source.variant.precision, merge_groups=source.variant.merge
    )
    fixed = RUNTIMES[cell.backend].device
    return (
        options if fixed == "auto" or options.device != "auto" else replace(options, device=fixed)
    )


def _row(
    cell: Cell,
    opened: _Opened,
    samples: Mapping[Cell, Samples],
    images: Reference,
    weights: Weights,
    source: _ArtifactSource,
    labelled: Labelled | None,
    deadline: Deadline,
) -> Row:
    precision = source.variant.precision
    named = {
        "backend": cell.backend,
        "batch": cell.batch,
        "variant": cell.variant,
        "precision": precision,
    }
    taken = samples.get(cell)
    error = opened.error or (taken.error if taken else None)
    if error is not None or opened.subject is None or taken is None or taken.output is None:
        reason = str(error) if error else "no sample was taken"
        code = error.exit_code if error else 1
        return Row(**named, status="failed", reasons=(reason,), exit_code=code)
    try:
        delivered = opened.subject.session.delivered()
    except (
        Exception
    ) as exc:  # the samples are taken; not knowing what was delivered makes the row invalid
        delivered = Delivered("unknown", (), {"delivered": str(as_failure(exc))})
    manifest = opened.artifact.manifest if opened.artifact is not None else None
    numerics, left = (
        (precision, frozenset[str]()) if manifest is None else (manifest.numerics, manifest.left)
    )
    parity = _parity(taken, cell, images, opened, source, numerics)
    form = (
        manifest.quantization.runtime
        if manifest is not None and manifest.quantization is not None
        else None
    )
    reasons = reasons_against(
        taken, cell.batch, parity, delivered, weights.config, numerics, left, form
    )
    accuracy = None
    if labelled is not None and deadline.over():
        reasons += (f"its accuracy was {deadline.not_measured()}",)
    elif labelled is not None:
        try:
            accuracy = labelled.measure(opened.subject.session, cell.batch, opened.artifact)
            reasons += accuracy_failures(accuracy)
        except ResnextError as exc:
            reasons += (f"its accuracy could not be measured: {exc}",)
    timings = [_timing(taken.host_ns, "host", cell.batch)]
    if taken.device_ns and taken.device_boundary:
        timings.append(_timing(taken.device_ns, taken.device_boundary, cell.batch))
    size: int | None
    if opened.artifact is not None:
        size, digest = (
            opened.artifact.manifest.file_size_bytes,
            opened.artifact.manifest.file_sha256,
        )
    else:
        size, digest = opened.subject.session.model_size_bytes, None
    return Row(
        **named,
        status="invalid" if reasons else "valid",
        reasons=reasons,
        device=delivered.device,
        delivered=delivered.summary(),
        notes=dict(delivered.notes),
        timings=tuple(timings),
        warmup_runs=taken.warmup_runs,
        setup_s=opened.setup_s,
        bind_s=opened.bind_s,
        peak_host_bytes=opened.peak.host_bytes,
        peak_device_bytes=opened.peak.device_bytes,
        gpu=tuple(taken.gpu),
        model_size_bytes=size,
        artifact_sha256=digest,
        parity=parity,
        accuracy=accuracy,
    )


def _timing(rounds: list[list[int]], boundary: Any, batch: int) -> Timing:
    return Timing(
        boundary=boundary, rounds_ns=tuple(map(tuple, rounds)), stats=derive(rounds, batch)
    )


def _parity(
    taken: Samples,
    cell: Cell,
    images: Reference,
    opened: _Opened,
    source: _ArtifactSource,
    numerics: str,
) -> Parity:
    """Compare what the timed runs gave. Host and device runs must both be right; the worse of the
    two is kept.
    """
    rows = _rows_to_compare(cell.batch)
    assert opened.subject is not None
    sha256 = opened.artifact.manifest.file_sha256 if opened.artifact else None
    dtype = opened.subject.session.outputs[0].dtype
    gate = gate_for(numerics) if opened.artifact is None else gate_of(opened.artifact.manifest)
    graph = source.onnx(cell) if numerics in QUANTIZED else None
    outcomes = []
    for output in (taken.output, taken.bound_output):
        if output is not None:
            # Rows that are not compared must at least be there, and be finite: those that are not
            # join the compared.
            if output.shape[:1] == (cell.batch,):
                bad = np.flatnonzero(~np.isfinite(output.reshape(cell.batch, -1)).all(axis=1))[
                    :1
                ].tolist()
                chosen = sorted({*rows, *bad})
                got = output[chosen]
            else:
                chosen, got = list(range(cell.batch)), output
            outcomes.append(
                compare(
                    images.logits(rows=chosen),
                    got,
                    gate=gate,
                    baseline=images.baseline(numerics, graph=graph, rows=chosen),
                    dtype=dtype,
                    artifact_sha256=sha256,
                )
            )
    return max(outcomes, key=lambda outcome: (not outcome.passed, outcome.max_error or 0.0))


def _rows_to_compare(batch: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, batch - 1, min(batch, _COMPARED_ROWS))})


def _with_speedups(rows: list[Row]) -> tuple[Row, ...]:
    """Rows with how much faster each valid one is than the first row of the same batch and
    boundary, if that is valid.

    A wrong or unsteady result is no yardstick, and has no speed to boast of.
    """
    base: dict[tuple[int, str], tuple[Row, Timing]] = {}
    done = []
    for row in rows:
        timings = []
        for timing in row.timings:
            first_row, first = base.setdefault((row.batch, timing.boundary), (row, timing))
            if first_row.status == row.status == "valid":
                ratio = ratio_by_round(first.rounds_ns, timing.rounds_ns)
                timing = timing.model_copy(update={"speedup": ratio})
            timings.append(timing)
        done.append(row.model_copy(update={"timings": tuple(timings)}))
    return tuple(done)
