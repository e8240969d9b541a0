"""A worker: a session that is opened once, and a pipeline around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from resnext.artifact.foreign import open_artifact
from resnext.artifact.trust import Trust
from resnext.errors import BadArtifact, MissingRequirement
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.storage import exists

from .pipeline import Failed, Pipeline, Progress
from .plan import Planned
from .receipt import Receipt
from .request import Request


@dataclass(frozen=True)
class Job:
    """What every worker of a run is made with; picklable.

    Attributes:
        request: what to do.
        artifact: path of the artifact.
        trust: whose artifacts may be opened.
        output: folder of parts and receipts.
        probe: name of a file in ``output`` that a worker must see.
        threads: CPU threads of the session; None for the budget of the process.
        decode_threads: threads that read and decode.
        patience_s: silence after which a worker gives up, seconds.
    """

    request: Request
    artifact: Path
    trust: Trust
    output: Path
    probe: str
    threads: int | None
    decode_threads: int
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
        for path in (Path(job.request.input), job.output / job.probe):
            if not exists(path):
                raise MissingRequirement(
                    f"a worker does not see {path}",
                    hint="put input and output where every machine sees them under the same path",
                )
        artifact = open_artifact(job.artifact, trust=job.trust)
        manifest = artifact.manifest
        if manifest.file_sha256 != job.request.artifact_sha256:
            raise BadArtifact(f"{artifact.path} is another file than when this began")
        options = SessionOptions(threads=job.threads)
        self._session = open_session(artifact, job.request.backend, options=options)
        self.pipeline = Pipeline(
            self._session,
            job.request,
            job.output,
            class_names=manifest.class_names,
            baked=manifest.preprocessing_baked,
            decode_threads=job.decode_threads,
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


def work_in_crew(job: Job) -> Callable[[Planned], Receipt]:
    """A worker for a crew: a function that does one shard.

    Raises:
        ResnextError: as `Worker`.
    """
    from resnext.cluster.worker import beat

    pipeline = Worker(job).pipeline  # open until the process ends

    def tell(progress: Progress) -> None:
        beat(f"{progress.pictures} pictures")

    def work(planned: Planned) -> Receipt:
        (outcome,) = pipeline.run([planned], tell)
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome

    return work
