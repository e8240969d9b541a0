"""A worker: a session that is opened once, and a pipeline around it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from resnext.artifact.foreign import open_artifact
from resnext.artifact.trust import Trust
from resnext.cluster.worker import beat
from resnext.errors import BadArtifact, BadInput, MissingRequirement
from resnext.machine.threads import thread_budget
from resnext.readers.files import exists, read_file
from resnext.runtimes.registry import SessionOptions, open_session, runs_on_cpu

from .flow import Failed, Progress
from .pipeline import Pipeline
from .plan import Planned
from .receipt import Receipt
from .request import Request

#: Name of a file in an output folder whose words are new in every run.
PROBE = ".probe"


@dataclass(frozen=True)
class Job:
    """What every worker of a run is made with; picklable.

    Attributes:
        request: what to do.
        artifact: path of the artifact.
        trust: whose artifacts may be opened.
        output: folder of parts and receipts.
        probe: what a worker must find in the file `PROBE` of ``output``.
        threads: CPU threads of the session; None for what `shared_threads` gives it.
        decode_threads: threads that read and decode; None as well.
        neighbors: workers that share the machine, this one included.
        patience_s: silence after which a worker gives up, seconds.
    """

    request: Request
    artifact: Path
    trust: Trust
    output: Path
    probe: str
    threads: int | None
    decode_threads: int | None
    neighbors: int
    patience_s: float


class Worker:
    """Does shards. A context manager.

    Args:
        job: what to do.

    Raises:
        MissingRequirement: this process does not see the input or the output.
        BadArtifact: the artifact is not the one of the request.
        ResnextError: the session cannot be opened.
    """

    def __init__(self, job: Job) -> None:
        for path, seen in (
            (Path(job.request.input), exists(job.request.input)),
            (job.output, _probed(job.output) == job.probe),
        ):
            if not seen:
                raise MissingRequirement(
                    f"a worker does not see {path}",
                    hint="put input and output where every machine sees them under the same path",
                )
        artifact = open_artifact(job.artifact, trust=job.trust)
        manifest = artifact.manifest
        if manifest.file_sha256 != job.request.artifact_sha256:
            raise BadArtifact(f"{artifact.path} is another file than when this began")
        backend = job.request.backend
        threads, decode_threads = shared_threads(
            thread_budget().count // job.neighbors,
            on_cpu=runs_on_cpu(backend),
            threads=job.threads,
            decode_threads=job.decode_threads,
        )
        self._session = open_session(artifact, backend, options=SessionOptions(threads=threads))
        self.pipeline = Pipeline(
            self._session,
            job.request,
            job.output,
            class_names=manifest.class_names,
            baked=manifest.preprocessing_baked,
            threads=threads,
            decode_threads=decode_threads,
            patience_s=job.patience_s,
        )
        try:
            self.pipeline.warm_up()
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.pipeline.hung:  # a session that is still running cannot be closed
            self._session.close()


def _probed(output: Path) -> str:
    try:
        return read_file(output / PROBE, 1000).decode(errors="replace")
    except BadInput:
        return ""


def shared_threads(
    budget: int, *, on_cpu: bool, threads: int | None, decode_threads: int | None
) -> tuple[int, int]:
    """CPU threads of the session, and threads that read and decode.

    A picture takes far less to decode than a large network takes to classify it on a CPU, so there
    a quarter of the budget decodes; beside a GPU, all of it. Below four threads, both share.

    Args:
        budget: CPU threads of this worker.
        on_cpu: the session runs there.
        threads: requested for the session, or None.
        decode_threads: requested for decoding, or None.
    """
    budget = max(1, budget)
    if decode_threads is None:
        decode_threads = max(1, budget // 4) if on_cpu else budget
    if threads is None:
        threads = max(1, budget - decode_threads) if on_cpu and budget >= 4 else budget
    return threads, decode_threads


def work_in_crew(job: Job, artifact: Path | None = None) -> Callable[[Planned], Receipt]:
    """A worker for a crew: a function that does one shard.

    It gives a sign of life only if there is progress, so that the dispatcher ends one that hangs,
    and another gets its shard.

    Args:
        job: what to do.
        artifact: where the artifact is on this machine, if not where the job says.

    Raises:
        ResnextError: as `Worker`.
    """
    if artifact is not None:
        job = replace(job, artifact=artifact)
    pipeline = Worker(job).pipeline  # open until the process ends
    told = -1

    def tell(progress: Progress) -> None:
        nonlocal told
        if progress.pictures != told:
            told = progress.pictures
            beat(f"{told} pictures by {socket.gethostname()} {os.getpid()}")

    def work(planned: Planned) -> Receipt:
        (outcome,) = pipeline.run((planned,), tell)
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome

    return work
