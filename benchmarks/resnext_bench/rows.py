"""From the samples of a case to its row: compared, judged, and set against the first row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnext.errors import ResnextError
from resnext.machine.environment import Environment
from resnext.precision import QUANTIZED
from resnext.runtimes.session import Boundary, Delivered
from resnext.timing.paired import ratio_by_round
from resnext.verify.accuracy import Accuracy
from resnext.verify.labelled import Labelled
from resnext.verify.parity import Parity, compare, gate_for, gate_of
from resnext.verify.reference import Reference

from .artifacts import ArtifactSource
from .checks.evidence import Evidence
from .checks.registry import judge
from .deadline import Deadline
from .measure import Samples, Subject, as_failure
from .opening import Opened
from .plan import Case
from .record import Row, Timing
from .stats import derive

#: Rows of a batch whose logits are compared, first and last among them.
_COMPARED_ROWS = 16


@dataclass(frozen=True)
class Truth:
    """What every row of a run is compared with.

    Attributes:
        images: test images, with PyTorch's logits for them.
        labelled: labelled images; None if accuracy was not requested.
        environment: machine and software.
        deadline: after which no labelled images are run.
    """

    images: Reference
    labelled: Labelled | None
    environment: Environment
    deadline: Deadline


def row_of(
    case: Case, opened: Opened, taken: Samples | None, source: ArtifactSource, truth: Truth
) -> Row:
    """The row of ``case``: failed if it was not measured, else valid or invalid.

    Args:
        case: backend, batch and candidate.
        opened: its session, or why there is none.
        taken: its samples; None if it was not measured.
        source: the artifacts of its candidate.
        truth: what it is compared with.
    """
    named = {
        "backend": case.backend,
        "batch": case.batch,
        "variant": case.candidate,
        "precision": source.candidate.precision,
    }
    subject, artifact = opened.subject, opened.artifact
    error = opened.error or (taken.error if taken else None)
    if error is not None or subject is None or taken is None or taken.output is None:
        reason = str(error) if error else "no sample was taken"
        code = error.exit_code if error else 1
        return Row(**named, status="failed", reasons=(reason,), exit_code=code)
    manifest = artifact.manifest if artifact is not None else None
    quantization = None if manifest is None else manifest.quantization
    numerics = source.candidate.precision if manifest is None else manifest.numerics
    delivered = _delivered(subject)
    parity = _parity(case, opened, taken, source, truth.images, numerics)
    accuracy, missing = _accuracy(case, opened, subject, truth)
    reasons = judge(
        Evidence(
            taken,
            case.batch,
            parity,
            delivered,
            truth.images.weights.config,
            numerics,
            skipped=frozenset() if manifest is None else manifest.left,
            scheme=None if quantization is None else quantization.runtime,
            accuracy=accuracy,
            accuracy_missing=missing,
        )
    )
    timings = [_timing(taken.host_ns, "host", case.batch)]
    if taken.device_ns and taken.device_boundary:
        timings.append(_timing(taken.device_ns, taken.device_boundary, case.batch))
    size = subject.session.model_size_bytes if manifest is None else manifest.file_size_bytes
    return Row(
        **named,
        status="invalid" if reasons else "valid",
        reasons=tuple(map(str, reasons)),
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
        artifact_sha256=None if manifest is None else manifest.file_sha256,
        parity=parity,
        accuracy=accuracy,
    )


def with_speedups(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows with how many times faster each valid one is than the first of the same batch and
    boundary, if that is valid: a wrong or unsteady result is no yardstick.
    """
    base: dict[tuple[int, str], tuple[Row, Timing]] = {}
    done = []
    for row in rows:
        timings = []
        for timing in row.timings:
            first_row, first = base.setdefault((row.batch, timing.boundary), (row, timing))
            if first_row.status == row.status == "valid":
                speedup = ratio_by_round(first.rounds_ns, timing.rounds_ns)
                timing = timing.model_copy(update={"speedup": tuple(speedup)})
            timings.append(timing)
        done.append(row.model_copy(update={"timings": tuple(timings)}))
    return tuple(done)


def _timing(rounds: list[list[int]], boundary: Boundary, batch: int) -> Timing:
    return Timing(
        boundary=boundary, rounds_ns=tuple(map(tuple, rounds)), stats=derive(rounds, batch)
    )


def _delivered(subject: Subject) -> Delivered:
    try:
        return subject.session.delivered()
    except Exception as exc:  # the samples are taken; unknown layers make the row invalid
        return Delivered("unknown", (), {"delivered": str(as_failure(exc))})


def _accuracy(
    case: Case, opened: Opened, subject: Subject, truth: Truth
) -> tuple[Accuracy | None, str]:
    """Accuracy, and why there is none if it was requested."""
    if truth.labelled is None:
        return None, ""
    if truth.deadline.over():
        return None, f"its accuracy was {truth.deadline.not_measured()}"
    try:
        measure = truth.labelled.measure
        return measure(subject.session, case.batch, opened.artifact, truth.environment), ""
    except ResnextError as exc:
        return None, f"its accuracy could not be measured: {exc}"


def _parity(
    case: Case,
    opened: Opened,
    taken: Samples,
    source: ArtifactSource,
    images: Reference,
    numerics: str,
) -> Parity:
    """Compare what the timed runs gave. Host and device runs must both be right; the worse of the
    two is kept.
    """
    assert opened.subject is not None
    dtype = opened.subject.session.outputs[0].dtype
    manifest = opened.artifact.manifest if opened.artifact is not None else None
    gate = gate_for(numerics) if manifest is None else gate_of(manifest)
    graph = source.onnx(case) if numerics in QUANTIZED else None
    compared = np.unique(np.linspace(0, case.batch - 1, _COMPARED_ROWS).astype(int)).tolist()
    outcomes = []
    for output in (taken.output, taken.bound_output):
        if output is None:
            continue
        if output.shape[:1] == (case.batch,):
            # Of the other rows, the first that is not finite is compared as well.
            finite = np.isfinite(output.reshape(case.batch, -1)).all(axis=1)
            rows = sorted({*compared, *np.flatnonzero(~finite)[:1].tolist()})
            logits = output[rows]
        else:
            rows, logits = list(range(case.batch)), output
        outcomes.append(
            compare(
                images.logits(rows=rows),
                logits,
                gate=gate,
                baseline=images.baseline(numerics, graph=graph, rows=rows),
                dtype=dtype,
                artifact_sha256=None if manifest is None else manifest.file_sha256,
            )
        )
    return max(outcomes, key=lambda outcome: (not outcome.passed, outcome.max_error or 0.0))
