"""A worker: a session that is opened once, and a pipeline around it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
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

    If it is called on several threads, the pipeline goes on from one shard to the next without a
    gap. It gives a sign of life only if there is progress, so that the dispatcher ends one that
    hangs, and others get its shards.

    Args:
        job: what to do.
        artifact: where the artifact is on this machine, if not where the job says.

    Raises:
        ResnextError: as `Worker`.
    """
    if artifact is not None:
        job = replace(job, artifact=artifact)
    return Running(Worker(job).pipeline)  # open until the process ends


class Running:
    """A pipeline that waits for shards: a function that does one, for several threads at once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._told = pipeline, -1
        self._shards: SimpleQueue[Planned] = SimpleQueue()
        self._futures: dict[str, Future[Receipt]] = {}
        self._broken: BaseException | None = None
        self._lock = Lock()
        Thread(target=self._run, daemon=True).start()

    def __call__(self, planned: Planned) -> Receipt:
        """The receipt of a shard.

        Raises:
            ResnextError: it cannot be read; or the pipeline failed, now or before.
        """
        future: Future[Receipt] = Future()
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._futures[planned.id] = future
            self._shards.put(planned)
        return future.result()

    def _run(self) -> None:
        try:
            for outcome in self._pipeline.run(self._given(), self._tell):
                if isinstance(outcome, Failed):
                    self._futures.pop(outcome.shard.id).set_exception(outcome.error)
                else:
                    self._futures.pop(outcome.shard).set_result(outcome)
        except BaseException as exc:
            with self._lock:
                self._broken = exc
            for future in self._futures.values():
                future.set_exception(exc)

    def _given(self) -> Iterator[Planned | None]:
        while True:
            if self._shards.empty():
                yield None
            yield self._shards.get()

    def _tell(self, progress: Progress) -> None:
        if progress.pictures != self._told:
            self._told = progress.pictures
            beat(f"{self._told} pictures by {socket.gethostname()} {os.getpid()}")
