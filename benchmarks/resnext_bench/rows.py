"""From the samples of a case to its row: compared, judged, and set against the first row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ResnextError
from resnext.machine.environment import Environment
from resnext.runtimes.session import Boundary, Delivered, Session
from resnext.verify.accuracy import Accuracy
from resnext.verify.assumed import assumed
from resnext.verify.batches.integrity import timed_batch_integrity
from resnext.verify.batches.laws import Integrity
from resnext.verify.check import batched, whole
from resnext.verify.labeled import Labeled
from resnext.verify.parity import Parity, images_to_compare
from resnext.verify.reference import Comparison
from resnext.verify.untrained import untrained

from .cases import Candidate
from .checks.evidence import Evidence
from .checks.registry import judge
from .checks.threads import reported_threads
from .control import Control
from .deadline import Deadline
from .limits.distance import Distance, distance
from .limits.needed import Limits
from .measure import Measured, Samples, as_failure
from .opening import Opening
from .plan import Case, Plan
from .record import FindingRecord, Row
from .scenarios.scenario import Passes
from .served import served_record
from .stats import Timing, ratio_interval, timing_of

#: Rows of a batch whose logits are compared, first and last among them.
_COMPARED_ROWS = 16


@dataclass(frozen=True)
class Judge:
    """Judges the rows of a run, all by the same references.

    Attributes:
        reference: test images, with PyTorch's logits for them.
        labeled: labeled images; None if accuracy was not requested.
        environment: machine and software.
        deadline: after which no labeled images are run.
        plan: what was asked of the measurement.
        threads: CPU threads of a case that does not say.
        limits: ceilings of this machine.
    """

    reference: Comparison
    labeled: Labeled | None
    environment: Environment
    deadline: Deadline
    plan: Plan
    threads: int = 1
    limits: Limits = field(default_factory=Limits)

    def row(
        self,
        case: Case,
        candidate: Candidate,
        opening: Opening,
        samples: Samples | None,
        passes: Passes | None = None,
    ) -> Row:
        """The row of ``case``: failed if it was not measured, else valid or invalid.

        Args:
            case: backend, batch and name of the candidate.
            candidate: its precision and artifact.
            opening: its session, or the error of opening it.
            samples: None if it was not measured.
            passes: outcome of its scenarios; None if there were none.
        """
        passes = passes or Passes()
        threads = case.threads or self.threads
        key = {
            "backend": case.backend,
            "batch": case.batch,
            "variant": case.candidate,
            "threads": threads,
            "streams": case.streams,
            "precision": candidate.precision,
        }
        subject, artifact = opening.subject, opening.artifact
        error = opening.error or (samples.error if samples else None)
        if error is not None or subject is None or samples is None or samples.output is None:
            reason = str(error) if error else "no sample was taken"
            code = error.exit_code if error else 1
            return Row(**key, status="failed", reasons=(reason,), exit_code=code)
        manifest = None if artifact is None else artifact.manifest
        quantization = None if manifest is None else manifest.quantization
        numerics = candidate.precision if manifest is None else manifest.numerics
        delivered = delivered_of(subject.session)
        key["threads"] = reported_threads(delivered) or threads
        accuracy, accuracy_missing = self._accuracy(case.batch, opening)
        further = not self.deadline.over()
        parity = timed_parity(
            self.reference, case.batch, numerics, opening, samples, further=further
        )
        integrity = timed_integrity(numerics, opening, samples)
        caveats = (
            None if manifest is None else untrained(manifest),
            assumed(self.reference.preprocessing, self.reference.preprocessing_source),
        )
        timings = timings_of(samples, case.batch, case.streams)
        distance = self._distance(case, numerics, delivered.device, threads, timings[-1])
        served = None
        if subject.session.served:
            confirmed = subject.session.confirms_artifact
            served = served_record(samples, case.streams, delivered.notes, confirmed=confirmed)
        findings = judge(
            Evidence(
                samples,
                timings,
                parity,
                delivered,
                self.reference.config,
                numerics,
                skipped=frozenset() if manifest is None else manifest.left,
                scheme=None if quantization is None else quantization.runtime,
                accuracy=accuracy,
                accuracy_missing=accuracy_missing,
                integrity=integrity,
                threads=threads,
                caveats=tuple(filter(None, caveats)),
                planned_rounds=self.plan.rounds,
                precision=self.plan.precision,
                distance=distance,
                passes=passes,
                served=served,
            )
        )
        reasons = [finding for finding in findings if finding.severity == "refused"]
        ran = manifest if served is None or served.confirmed else None  # as far as anybody knows
        size = subject.session.model_size_bytes if manifest is None else manifest.file_size_bytes
        return Row(
            **key,
            status="invalid" if reasons else "valid",
            reasons=tuple(map(str, reasons)),
            warnings={each.code: str(each) for each in findings if each.severity == "warning"},
            findings=tuple(
                FindingRecord(
                    code=each.code, severity=each.severity, message=each.message, hint=each.hint
                )
                for each in findings
            ),
            device=delivered.device,
            delivered=delivered.summary(),
            modules={name: layer.dtype for layer in delivered.layers for name in layer.modules},
            notes=dict(delivered.notes),
            timings=timings,
            warmup_runs=samples.warmup_runs,
            setup_s=opening.setup_s,
            bind_s=opening.bind_s,
            peak_host_bytes=opening.peak.host_bytes,
            peak_device_bytes=opening.peak.device_bytes,
            gpu=tuple(samples.gpu),
            loads=tuple(samples.loads),
            disturbances=samples.disturbed,
            model_size_bytes=size if served is None else None,
            artifact_sha256=None if ran is None else ran.file_sha256,
            parity=parity,
            integrity=integrity,
            accuracy=accuracy,
            distance=distance,
            served=served,
            **passes.records,
        )

    def _distance(
        self, case: Case, numerics: str, device: str, threads: int, timing: Timing
    ) -> Distance | None:
        """From the limit; None if the ceilings of ``device`` or the network are unknown."""
        ceilings = self.limits.of(device, threads)
        config, speed = self.reference.config, timing.stats.images_per_s
        if ceilings is None or config is None:
            return None
        return distance(config, numerics, case.batch, speed, ceilings)

    def _accuracy(self, batch: int, opening: Opening) -> tuple[Accuracy | None, str]:
        """Accuracy, and the reason if it was requested and is missing."""
        assert opening.subject is not None
        if self.labeled is None:
            return None, ""
        if self.deadline.over():
            return None, f"its accuracy was {self.deadline.not_measured()}"
        session, artifact = opening.subject.session, opening.artifact
        try:
            return self.labeled.measure(session, batch, artifact, self.environment), ""
        except ResnextError as exc:
            return None, f"its accuracy could not be measured: {exc}"


def timed_parity(
    reference: Comparison,
    batch: int,
    numerics: str,
    opening: Opening,
    samples: Samples,
    *,
    further: bool = True,
) -> Parity:
    """Parity of the outputs of the timed runs, of host and device runs the worse, and of one
    further run of adversarial inputs; if few logits were timed, also of more images.

    Args:
        reference: PyTorch's logits.
        batch: images in one run.
        numerics: of the artifact, as in `Manifest.numerics`.
        opening: the open session.
        samples: its last outputs.
        further: make further runs; without, only what was timed is compared.
    """
    assert opening.subject is not None
    manifest = None if opening.artifact is None else opening.artifact.manifest
    outcomes, adversarial, more = [], None, None
    failure = ""
    if further:
        count = images_to_compare(batch, reference.classes)
        try:
            more = _logits(opening, reference.inputs(manifest)[batch:count], batch)
            extreme = reference.adversarial_inputs(manifest)
            adversarial = _logits(opening, extreme, batch)
        except Exception as exc:  # a candidate that cannot take them does not compute the same
            failure = f"on adversarial inputs: {as_failure(exc)}"
    for output in (samples.output, samples.bound_output):
        if output is not None:
            rows, logits = _compared(output, batch, more)
            outcomes.append(
                reference.parity(
                    logits,
                    numerics,
                    opening.artifact,
                    graph=opening.graph,
                    dtype=opening.subject.session.outputs[0].dtype,
                    rows=rows,
                    adversarial=adversarial,
                )
            )
    worse = max(outcomes, key=lambda outcome: (not outcome.passed, outcome.max_error or 0.0))
    return worse.with_inputs((), (failure,) if failure else ())


def timings_of(samples: Samples, batch: int, streams: int = 1) -> tuple[Timing, ...]:
    """The times of a case of ``batch`` images, with ``streams`` requests in flight: the host's,
    then the device's if it has any.
    """
    times: list[tuple[Boundary, list[list[int]]]] = [("host", samples.host_ns)]
    if samples.device_ns and samples.device_boundary:
        times.append((samples.device_boundary, samples.device_ns))
    return tuple(
        timing_of(boundary, rounds, batch, samples.disturbed, streams, samples.cache)
        for boundary, rounds in times
    )


def control_of(measured: Measured, limit: float) -> Control | None:
    """The control's record, of the boundary that rows are judged by; None if there was none.

    Args:
        measured: with the control's samples and those of the case that it repeats.
        limit: largest noise floor at which speedups are shown.
    """
    case, second = measured.controlled, measured.control
    if case is None or second is None or second.error is not None or not second.host_ns:
        return None
    first, again = (
        timings_of(samples, case.batch)[-1] for samples in (measured.samples[case], second)
    )
    ratio = ratio_interval(again.quiet_ns, first.quiet_ns)
    return Control(
        backend=case.backend,
        batch=case.batch,
        variant=case.candidate,
        threads=case.threads,
        streams=case.streams,
        boundary=again.boundary,
        rounds_ns=again.rounds_ns,
        disturbed=tuple(sorted({*first.disturbed, *again.disturbed})),
        ratio=None if ratio is None else tuple(ratio),
        limit=limit,
    )


def with_speedups(rows: Sequence[Row], control: Control | None = None) -> tuple[Row, ...]:
    """Rows with the speedup of each valid one over the first of the same batch, threads, streams,
    boundary and cache, if that is valid: a wrong or unsteady result is no yardstick. Without
    speedups if the same row measured twice differs by more than the control's limit.
    """
    if control is not None and not control.quiet:
        return tuple(rows)
    base: dict[tuple[int, int | None, int, str, str], tuple[Row, Timing]] = {}
    faster = []
    for row in rows:
        timings = []
        for timing in row.timings:
            like = (row.batch, row.threads, row.streams, timing.boundary, timing.cache)
            first_row, first = base.setdefault(like, (row, timing))
            if first_row.status == row.status == "valid":
                speedup = ratio_interval(first.quiet_ns, timing.quiet_ns)
                timing = timing.model_copy(
                    update={"speedup": None if speedup is None else tuple(speedup)}
                )
            timings.append(timing)
        faster.append(row.model_copy(update={"timings": tuple(timings)}))
    return tuple(faster)


def delivered_of(session: Session) -> Delivered:
    """What ``session`` reports of its layers; none, with a note, if it fails to."""
    try:
        return session.delivered()
    except Exception as exc:  # the times are taken; unknown layers make the row invalid
        return Delivered("unknown", (), {"delivered": str(as_failure(exc))})


def timed_integrity(numerics: str, opening: Opening, samples: Samples) -> Integrity:
    """Integrity of the timed batch, from untimed runs."""
    assert opening.subject is not None
    session, artifact = opening.subject.session, opening.artifact
    (images,) = opening.subject.inputs.values()
    outputs = (samples.output, *samples.other_outputs, samples.bound_output)
    return timed_batch_integrity(
        session,
        images,
        [output for output in outputs if output is not None],
        numerics=numerics,
        artifact_sha256=None if artifact is None else artifact.manifest.file_sha256,
    )


def _logits(opening: Opening, images: NDArray[Any], batch: int) -> NDArray[Any] | None:
    """The candidate's logits of ``images``, ``batch`` at a time; None without images."""
    assert opening.subject is not None
    if not len(images):
        return None
    rows = whole(len(images), batch)
    return batched(opening.subject.session, images[rows], batch)[: len(images)]


def _compared(
    output: NDArray[Any], batch: int, more: NDArray[Any] | None
) -> tuple[list[int], NDArray[Any]]:
    """Rows of a batch to compare, and their logits: some, the first that is not finite, and
    ``more``, of the images after the batch. An output of another form is compared as it is.
    """
    if output.shape[:1] != (batch,):
        return list(range(batch)), output
    spread = np.unique(np.linspace(0, batch - 1, _COMPARED_ROWS).astype(int)).tolist()
    finite = np.isfinite(output.reshape(batch, -1)).all(axis=1)
    rows = sorted({*spread, *np.flatnonzero(~finite)[:1].tolist()})
    if more is None or (more.shape[1:], more.dtype) != (output.shape[1:], output.dtype):
        return rows, output[rows]
    following = range(batch, batch + len(more))
    return [*rows, *following], np.concatenate([output[rows], more])
