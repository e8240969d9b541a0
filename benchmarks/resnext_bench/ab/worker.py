"""The process of one arm: opens its session through the front door, and times a visit whenever its
parent says so.

Run as ``python -m resnext_bench.ab.worker FD``, in the arm's own environment; answers go to file
descriptor FD (`resnext_bench.ab.protocol`).
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

import resnext
from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadArtifact, BadInput, BadWeights
from resnext.images.synthetic import seeded_pixels
from resnext.machine.environment import record_environment
from resnext.machine.load import Meter
from resnext.machine.nvml import open_nvml
from resnext.machine.parent import end_with_parent
from resnext.runtimes.session import Session
from resnext.timing.clock import now_ns, settle, time_host
from resnext.timing.streams import time_streams
from resnext.verify.check import batched, whole
from resnext.verify.inputs import seeded_inputs
from resnext.weights.spec import Weights, load_weights
from resnext_bench.child import Failure
from resnext_bench.measure import Call, as_failure

from .protocol import Hello, Job, Logits, Opened, Request, Visit

_WARMUP_RUNS = 3


def main() -> None:
    """Serve the parent until it closes standard input."""
    end_with_parent()
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as replies, ExitStack() as stack:

        def send(reply: BaseModel) -> None:
            replies.write(reply.model_dump_json() + "\n")
            replies.flush()

        try:
            send(Hello())
            arm = _Arm(Job.model_validate_json(sys.stdin.readline()), stack)
            send(arm.opened())
            for line in sys.stdin:
                request = Request.model_validate_json(line)
                send(arm.visit(request.iterations) if request.what == "visit" else arm.logits())
        except Exception as exc:  # the parent reports it, whatever it is
            error = as_failure(exc)
            send(Failure(kind=type(error).__name__, message=error.message, hint=error.hint))
            sys.exit(1)


class _Arm:
    """An open session with its images."""

    def __init__(self, job: Job, stack: ExitStack) -> None:
        self._job, self._stack = job, stack
        subject = _subject(job)
        self._session: Session = stack.enter_context(
            resnext.open_session(
                subject,
                job.backend,
                device=job.device,
                threads=job.threads,
                precision=job.precision,
                streams=job.streams,
                memory_format=job.memory_format,
            )
        )
        (spec,), (result,) = self._session.inputs, self._session.outputs
        self._images = spec.cast(_images(job, subject))
        self._inputs = {spec.name: np.ascontiguousarray(self._images[: job.batch])}
        self._output = result.name
        self._calls = [Call(stream, self._inputs) for stream in self._session.streams()]
        self._meter = Meter()

    def opened(self) -> Opened:
        """Warm up, and describe the session."""
        started, took = now_ns(), list[int]()
        while len(took) < _WARMUP_RUNS or now_ns() - started < self._job.warmup_s * 1e9:
            took += self._time(1)
        delivered = self._session.delivered()
        return Opened(
            estimate_ns=min(took),
            device=delivered.device,
            delivered=delivered.summary(),
            notes=dict(delivered.notes),
            environment=record_environment(self._stack.enter_context(open_nvml())),
        )

    def visit(self, iterations: int) -> Visit:
        """Time ``iterations`` runs."""
        for call in self._calls:
            settle(call)
        before = self._meter.read()
        times = self._time(iterations)
        return Visit(times_ns=tuple(times), load=self._meter.since(before))

    def logits(self) -> Logits:
        """Logits of the batch as the last timed run gave them, and of the images after it."""
        timed, batch = self._calls[0].last[self._output], self._job.batch
        more = self._images[batch:]
        if len(more) and timed.shape[:1] == (batch,):
            rows = whole(len(more), batch)
            rest = batched(self._session, np.ascontiguousarray(more[rows]), batch)[: len(more)]
            timed = np.concatenate([timed, rest])
        return Logits.of(timed)

    def _time(self, iterations: int) -> list[int]:
        if len(self._calls) == 1:
            return time_host(self._calls[0], iterations)
        return time_streams(self._calls, iterations)


def _subject(job: Job) -> Artifact | Weights:
    """The artifact or weights of ``job``, as it says.

    Raises:
        BadArtifact: the artifact is another by now.
        BadInput: it does not take the batch.
        BadWeights: the SPEC names other weights here.
    """
    if job.artifact is None:
        weights = load_weights(job.weights, job.config, key=job.weights_key)
        if weights.sha256 != job.weights_sha256:
            raise BadWeights(f"weights {job.weights} are others in this environment")
        return weights
    artifact = read_artifact(Path(job.artifact))
    if artifact.manifest.file_sha256 != job.artifact_sha256:
        raise BadArtifact(f"{artifact.path} has changed", hint="do not write to it meanwhile")
    if not artifact.manifest.takes(job.batch):
        raise BadInput(
            f"{artifact.path} takes batch {artifact.manifest.batches()}, not {job.batch}",
            hint="give such a `batch`",
        )
    return artifact


def _images(job: Job, subject: Artifact | Weights) -> NDArray[Any]:
    """The seeded images as ``subject`` takes them."""
    if isinstance(subject, Weights):
        return job.preprocessing.normalize(seeded_pixels(job.config, job.images, job.seed))
    return seeded_inputs(subject.manifest, job.images, job.seed)


if __name__ == "__main__":
    main()
