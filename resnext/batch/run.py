"""Classifies the pictures of an input, shard by shard."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from resnext.artifact.files import Artifact
from resnext.artifact.trust import current_trust
from resnext.cluster.crew import Crew
from resnext.cluster.dispatch import dispatch
from resnext.cluster.local import LocalCrew
from resnext.cluster.parcels import Parcel
from resnext.cluster.units import Unit
from resnext.errors import BadInput, MissingRequirement, NeverReturned, SessionFailed, UsageError
from resnext.images.shards.find import find_shards
from resnext.images.shards.shard import plain
from resnext.progress import Amount, Step
from resnext.runtimes.registry import check_subject, natural_runtime, runtime_named
from resnext.storage import held, remove, remove_left_behind, write_whole
from resnext.timing.clock import now_ns
from resnext.verify.accuracy import fitting_batch

from .flow import Failed, Progress
from .parts import check_format
from .pipeline import PATIENCE_S
from .plan import Plan, Planned, plan_for
from .receipt import RECEIPTS, Receipt, cannot_write
from .request import Format, hold_to, request_for
from .summary import ShardLine, Summary, bound_of, total, write_summary
from .worker import PROBE, Job, Worker

#: Least time between two lines of progress, seconds.
_LINE_S = 10.0
_FACTORY = "resnext.batch.worker:work_in_crew"
#: Shards of a worker: one ends while the next begins.
_AT_ONCE = 2
Outcomes = Generator[tuple[Planned, Receipt | str]]


def classify_shards(
    artifact: Artifact,
    source: Path,
    output: Path,
    *,
    backend: str | None = None,
    batch: int | None = None,
    top: int = 5,
    logits: bool = False,
    format: Format = "jsonl",
    threads: int | None = None,
    decode_threads: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    patience_s: float = PATIENCE_S,
    progress: Callable[[str], object] = lambda _: None,
) -> Summary:
    """Classify the pictures at ``source``, and write parts, receipts and a summary into ``output``.

    What an earlier call with the same request finished there is kept, if it is whole.

    Args:
        artifact: what to run.
        source: a folder of pictures, tar files or Parquet, as `find_shards` takes them.
        output: a new or empty folder, or that of an earlier call.
        backend: runtime; None for the artifact's natural one.
        batch: images in one run; None means 32, or the nearest size that the artifact takes.
        top: classes in a row.
        logits: rows have all logits, too.
        format: of the parts.
        threads: CPU threads of each session; None for what `shared_threads` says.
        decode_threads: threads of each worker that read and decode; None as well.
        workers: sessions; more than one run in processes of their own. None for one, or with
            ``ray`` for one on each node, or on each of its GPUs for a runtime that needs one.
        ray: address of a Ray cluster that does the work, or None. Its nodes see ``source`` and
            ``output`` under the same paths; the artifact is sent to them.
        patience_s: silence after which a worker is given up, seconds.
        progress: called with a line now and then.

    Raises:
        UsageError: options that do not go together, or an output of another request.
        BadInput: an input without pictures, or one of whose pictures none can be read.
        MissingRequirement: something is not installed, or the output cannot be written or is
            another run's.
        SessionFailed: the session failed; or shards were lost or could not be read, and all others
            are done.
    """
    name = backend or natural_runtime(artifact)
    check_subject(name, artifact)
    check_format(format)
    _check_apart(source, output)
    request = request_for(
        artifact,
        source,
        backend=name,
        batch=fitting_batch(artifact.manifest, batch),
        top=top,
        logits=logits,
        format=format,
    )
    progress("listing the pictures")
    shards = find_shards(source, progress)
    try:
        with _alone(output):
            hold_to(request, output)
            for folder in (output, output / RECEIPTS):
                remove_left_behind(folder, ".*.partial-*")
            plan = plan_for(request, shards, output, progress)
            with _probe(output) as probe:
                job = Job(
                    request,
                    artifact.path.absolute(),
                    current_trust(),
                    output.absolute(),
                    probe,
                    threads,
                    decode_threads,
                    1 if ray else workers or 1,
                    patience_s,
                )
                settled = _in_process(plan, job, progress)
                if ray or job.neighbors > 1:
                    settled = _in_crew(plan, job, _crew(artifact, job, ray, workers), progress)
                summary = _run(plan, job, settled, None if ray else job.neighbors)
            write_summary(summary, output)
    except OSError as exc:
        raise cannot_write(output, exc) from exc
    _judge(summary)
    return summary


def _run(plan: Plan, job: Job, outcomes: Outcomes, workers: int | None) -> Summary:
    receipts = dict(plan.done)
    errors: dict[str, str] = {}
    spans: list[tuple[int, int]] = []
    if plan.left:
        with closing(outcomes) as settled:
            for planned, outcome in settled:
                if isinstance(outcome, Receipt):
                    receipts[planned.id] = outcome
                    # Until the first shard begins, workers start, which is not the pictures' time.
                    spans.append((now_ns() - outcome.times.wall, now_ns()))
                else:
                    errors[planned.id] = outcome
    new = {id: it for id, it in receipts.items() if id not in plan.done}
    workers = workers or len({it.worker for it in new.values()}) or 1
    wall = max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0
    times = total(new.values(), wall)
    share, bound = bound_of(times, workers) if spans else (None, None)
    return Summary(
        request=job.request,
        shards=tuple(_line(it, receipts.get(it.id), errors.get(it.id)) for it in plan.shards),
        rows=sum(it.rows for it in receipts.values()),
        failures=sum(len(it.failures) for it in receipts.values()),
        rows_now=sum(it.rows for it in new.values()),
        earlier=len(plan.done),
        superseded=plan.superseded,
        workers=workers,
        decode_threads=max((it.decode_threads for it in (new or receipts).values()), default=1),
        times=times,
        busy_share=share,
        bound=bound,
    )


def _in_process(plan: Plan, job: Job, progress: Callable[[str], object]) -> Outcomes:
    """Shards by a worker in this process, without a gap between two."""
    say = _Say(plan, progress)
    shards = {it.id: it for it in plan.left}
    with Worker(job) as worker, closing(worker.pipeline.run(plan.left, say.look)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                yield outcome.shard, say.settled(outcome.shard, str(outcome.error))
            else:
                planned = shards[outcome.shard]
                yield planned, say.settled(planned, outcome)


def _crew(artifact: Artifact, job: Job, ray: str | None, workers: int | None) -> Crew:
    # The dispatcher ends what hangs; a worker may well wait for a shard.
    job = replace(job, patience_s=math.inf)
    if ray is None:
        return LocalCrew(job.neighbors, _FACTORY, (job,), depth=_AT_ONCE)
    from resnext.cluster.ray_crew import RayCrew

    parcel = Parcel.of(artifact.path if artifact.bare else artifact.directory)
    needs_gpu = runtime_named(job.request.backend).device == "cuda"
    cpus = 1.0 if needs_gpu else None  # None: the whole node
    gpus = float(needs_gpu)
    return RayCrew(
        ray, _FACTORY, (job, parcel), cpus=cpus, gpus=gpus, count=workers, depth=_AT_ONCE
    )


def _in_crew(plan: Plan, job: Job, members: Crew, progress: Callable[[str], object]) -> Outcomes:
    """Shards by workers in processes of their own. One that hangs or dies is replaced, and its
    shard is tried again, three times in all.
    """
    say = _Say(plan, progress)
    units = [Unit(it.id, it) for it in plan.left]
    with members as crew:
        settled = dispatch(
            units,
            crew,
            broken_by=(SessionFailed, NeverReturned),  # a GPU, say: others are in order
            doing="shards",
            patience_s=job.patience_s,
            say=say.line,
        )
        for it in settled:
            planned: Planned = it.unit.payload
            if it.error is not None and not isinstance(it.error, BadInput):
                raise it.error  # the next shard would fail in the same way
            problem = f"lost in {it.tries} tries: {it.lost}" if it.lost else str(it.error)
            yield planned, say.settled(planned, it.receipt or problem)


class _Say:
    """Progress in a line now and then, and in an `Amount` all the time."""

    def __init__(self, plan: Plan, progress: Callable[[str], object]) -> None:
        self._progress, self._plan = progress, plan
        self._known = all(it.shard.pictures_known is not None for it in plan.shards)
        self._began = self._said = now_ns()
        self._weight = self._pictures = 0
        self._amount = Amount(total=sum(it.shard.weight for it in plan.left))
        self._say(f"{len(plan.left)} of {len(plan.shards)} shards to do")

    def look(self, progress: Progress) -> None:
        """Show how far a pipeline in this process is."""
        if self._known:
            self._amount.done = min(progress.pictures, self._amount.total)
        self._now_and_then(progress.pictures, progress.failures)

    def line(self, line: str) -> None:
        """Show what the dispatcher says, if it is not its count."""
        if not line[:1].isdigit():
            self._say(line)

    def settled(self, planned: Planned, outcome: Receipt | str) -> Receipt | str:
        """Count a shard."""
        self._weight += planned.shard.weight
        self._amount.done = max(self._amount.done, self._weight)
        if isinstance(outcome, Receipt):
            self._pictures += outcome.rows
        self._now_and_then(self._pictures, None)
        return outcome

    def _now_and_then(self, pictures: int, failures: int | None) -> None:
        now = now_ns()
        if now - self._said >= _LINE_S * 1e9:
            self._said = now
            rate = pictures / (now - self._began) * 1e9
            unread = f", {failures} without a result" if failures else ""
            self._say(f"{pictures} pictures, {rate:.3g} images/s{unread}")

    def _say(self, line: str) -> None:
        self._progress(Step(line, self._amount))


def _line(planned: Planned, receipt: Receipt | None, error: str | None) -> ShardLine:
    name = plain(planned.shard.name)
    if receipt is None:
        return ShardLine(name=name, shard=planned.id, part=None, error=error)
    failures = len(receipt.failures)
    return ShardLine(
        name=name, shard=planned.id, part=receipt.part, rows=receipt.rows, failures=failures
    )


def _judge(summary: Summary) -> None:
    """Refuse a run that is not whole.

    Raises:
        SessionFailed: there are shards without a part.
        BadInput: no picture could be read.
    """
    if failed := summary.failed_shards:
        raise SessionFailed(
            f"{len(failed)} of {len(summary.shards)} shards have no part, such as"
            f" {failed[0].name}: {failed[0].error}",
            hint="all others are done, and the same command tries these again",
        )
    if not summary.rows:
        raise BadInput(f"no picture in the files in {summary.request.input}")
    if summary.rows == summary.failures:
        raise BadInput(
            f"none of {summary.rows} pictures in {summary.request.input} has a result",
            hint="the rows say why",
        )


def _check_apart(source: Path, output: Path) -> None:
    whole, into = source.resolve(), output.resolve()
    if whole.is_relative_to(into) or into.is_relative_to(whole):
        raise UsageError(
            f"{output} and {source} are in each other, so that rows would be taken for input",
            hint="choose another `output`",
        )


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold ``output``, which is made if it is not there.

    Raises:
        MissingRequirement: another run holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with held(output / ".lock") as mine:
        if not mine:
            raise MissingRequirement(
                f"another run is writing into {output}",
                hint="wait for it, or choose another `output`",
            )
        yield


@contextmanager
def _probe(output: Path) -> Iterator[str]:
    """Words in a file of ``output`` that every worker must see."""
    words = secrets.token_hex()
    write_whole(output / PROBE, words.encode())
    try:
        yield words
    finally:
        remove(output / PROBE)
