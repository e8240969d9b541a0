"""Decode threads, a bounded queue of batches, the session, a writer: each at its own pace.

Which pictures share a batch depends on the shard alone: a picture that cannot be read leaves a
black one in its place, and the last batch of a shard is filled with black ones. So a row does not
depend on how many threads or workers there are, nor on what was done before.
"""

from __future__ import annotations

import os
import queue
import socket
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Generic, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resnext.errors import BadInput, NeverReturned, ResnextError, SessionFailed
from resnext.images.pictures import opened_bytes
from resnext.images.shards.shard import Picture, plain
from resnext.readers.files import file_sha256
from resnext.runtimes.session import Session
from resnext.storage import written_whole
from resnext.timing.clock import now_ns

from .parts import FORMATS
from .plan import Planned
from .receipt import Failure, Receipt, Times, cannot_write, part_name, write_receipt
from .request import Request
from .rows import Row, rows_of

T = TypeVar("T")
#: Batches that wait for the session, and that wait to be written.
_QUEUED = 3
#: Batches that are being decoded beyond those.
_AHEAD = 2
#: How often waiting threads ask whether to stop, seconds.
_ASK_S = 0.1
#: How long to wait for a thread that was told to stop, seconds.
_STOP_S = 5.0
#: Silence after which the run counts as hung, seconds.
PATIENCE_S = 1800.0
Decoded = tuple["NDArray[Any] | None", str, int, int]


@dataclass(frozen=True)
class Failed:
    """A shard that could not be read, and why."""

    shard: Planned
    error: ResnextError


@dataclass
class Progress:
    """How far a pipeline is; read by others while it runs.

    Attributes:
        pictures: pictures with a row.
        failures: those without a result.
        running: since when the session has been running a batch, by the clock; 0 if it is not.
        decoding: key of the picture that is waited for.
    """

    pictures: int = 0
    failures: int = 0
    running: int = 0
    decoding: str = ""


@dataclass
class _Batch:
    """Pictures that run together; ``images`` is None if none could be read."""

    shard: Planned
    began: int
    pictures: list[Picture] = field(default_factory=list)
    placed: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    images: NDArray[Any] | None = None
    logits: NDArray[Any] | None = None
    read: int = 0
    decode: int = 0
    session: int = 0
    starved: int = 0
    blocked: int = 0
    last: bool = False
    error: ResnextError | None = None


class Pipeline:
    """Does shards with one session.

    Args:
        session: stays the caller's; it is used on a thread of the pipeline.
        request: what to do.
        output: folder of parts and receipts.
        class_names: of the network, or none.
        baked: the session takes uint8 pixels and normalizes them itself.
        threads: CPU threads of the session, for receipts.
        decode_threads: threads that read and decode.
        patience_s: silence after which it is given up, seconds.
    """

    def __init__(
        self,
        session: Session,
        request: Request,
        output: Path,
        *,
        class_names: Sequence[str] = (),
        baked: bool = False,
        threads: int = 1,
        decode_threads: int = 1,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.progress = Progress()
        self.hung = False
        self._session, self._request, self._output = session, request, output
        self._class_names, self._baked = class_names, baked
        self._threads, self._decode_threads = threads, decode_threads
        self._patience_s = patience_s
        preprocessing = request.preprocessing
        shape = (request.batch, *preprocessing.crop, len(preprocessing.mean))
        pixels = np.zeros(shape, np.uint8)
        #: A batch of black pictures.
        self.black = pixels if baked else session.inputs[0].cast(preprocessing.normalize(pixels))

    def warm_up(self) -> None:
        """Run once on black pictures: runtimes choose kernels for a shape when they first see it.

        Raises:
            SessionFailed: the session fails, or its output is not N x classes.
        """
        self.run_once(self.black)

    def run(
        self,
        shards: Iterable[Planned],
        look: Callable[[Progress], object] = lambda _: None,
        look_s: float = 1.0,
    ) -> Generator[Receipt | Failed]:
        """Do ``shards``, one after the other without a gap, and yield the receipt of each when it
        is written. Closing the iterator abandons what is not.

        Args:
            shards: what to do.
            look: called about every ``look_s`` seconds.
            look_s: seconds.

        Raises:
            SessionFailed: the session failed.
            NeverReturned: nothing happened for ``patience_s``; says what was waited for. The
                session must not be used again.
            MissingRequirement: a part or receipt cannot be written.
        """
        flow = _Flow(self, shards)
        with warnings.catch_warnings():
            # Decoding threads set these filters and restore each other's, so they are set around
            # all of them.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            try:
                yield from self._supervised(flow, look, look_s)
            finally:
                self.hung = flow.end()

    def _supervised(
        self, flow: _Flow, look: Callable[[Progress], object], look_s: float
    ) -> Iterator[Receipt | Failed]:
        before, silent, looked = (-1, 0), now_ns(), now_ns()
        while True:
            event = flow.events.look(min(look_s, self._patience_s) / 2)
            now = now_ns()
            if now - looked >= look_s * 1e9:
                looked = now
                look(self.progress)
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, _End):
                return
            if event is not None:
                silent = now
                yield event
            moved = (self.progress.pictures, self.progress.running)
            if moved != before:
                before, silent = moved, now
            elif now - silent >= self._patience_s * 1e9:
                raise NeverReturned(
                    f"nothing was done for {self._patience_s:.3g} s: {self._waited_for()}",
                    hint="the same command goes on with the shards that are not finished",
                )

    def _waited_for(self) -> str:
        if self.progress.running:
            return f"the session has not returned from a batch of {self._request.batch}"
        if self.progress.decoding:
            return f"{self.progress.decoding} is still being read or decoded"
        return "rows are still being written"

    def _decoded(self, picture: Picture) -> Decoded:
        """The network's image, the problem if there is none, and ns of reading and decoding."""
        began = read = now_ns()
        preprocessing = self._request.preprocessing
        image: NDArray[Any] | None = None
        problem = ""
        try:
            data = picture.load()
            read = now_ns()
            with opened_bytes(data, picture.key) as opened:
                image = preprocessing.to_pixels(opened)
            if not self._baked:
                image = self._session.inputs[0].cast(preprocessing.normalize(image[np.newaxis]))[0]
        except BadInput as exc:
            problem = str(exc)
        return image, problem, read - began, now_ns() - read

    def run_once(self, images: NDArray[Any]) -> NDArray[Any]:
        """The logits of one batch.

        Raises:
            SessionFailed: the session fails, or its output has another number of rows.
        """
        session = self._session
        logits = session.run({session.inputs[0].name: images})[session.outputs[0].name]
        if logits.ndim != 2 or len(logits) != len(images):
            raise SessionFailed(f"logits have shape {logits.shape}, want {len(images)} x classes")
        return logits

    def rows(self, batch: _Batch) -> list[Row]:
        """The rows of a batch that ran."""
        return rows_of(
            batch.pictures,
            batch.problems,
            batch.logits,
            top=self._request.top,
            with_logits=self._request.logits,
            class_names=self._class_names,
        )


class _End:
    """All shards are done."""


class _Flow:
    """The threads of one `Pipeline.run`."""

    def __init__(self, pipeline: Pipeline, shards: Iterable[Planned]) -> None:
        self._pipeline, self._shards = pipeline, shards
        self._stop = Event()
        most = (_AHEAD + 1) * pipeline._request.batch
        self.events: _Pipe[Receipt | Failed | BaseException | _End] = _Pipe(self._stop, 0)
        self._jobs: _Pipe[tuple[Picture, Future[Decoded]]] = _Pipe(self._stop, most)
        self._batches: _Pipe[_Batch | None] = _Pipe(self._stop, _QUEUED)
        self._answers: _Pipe[_Batch | None] = _Pipe(self._stop, _QUEUED)
        loops = [self._assemble, self._infer, self._write]
        loops += [self._decode] * pipeline._decode_threads
        # Daemons: a run that never returns must not keep the process from ending.
        self._threads = [Thread(target=self._guarded, args=(it,), daemon=True) for it in loops]
        for thread in self._threads:
            thread.start()

    def end(self) -> bool:
        """Stop all threads; whether one still runs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_STOP_S)
        return any(thread.is_alive() for thread in self._threads)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except _Stopped:
            pass
        except BaseException as exc:
            self.events.give(exc)

    def _decode(self) -> None:
        while True:
            picture, future = self._jobs.take()
            try:
                future.set_result(self._pipeline._decoded(picture))
            except BaseException as exc:
                future.set_exception(exc)

    def _assemble(self) -> None:
        """Give pictures to the decoders, a little ahead, and put what comes back into batches."""
        ahead: deque[tuple[_Batch, Picture | None, Future[Decoded]]] = deque()
        size = self._pipeline._request.batch
        for shard in self._shards:
            batch = _Batch(shard, now_ns())
            for picture in self._pictures(shard):
                future: Future[Decoded] = Future()
                if isinstance(picture, Picture):
                    batch.pictures.append(picture)
                    self._jobs.give((picture, future))
                    ahead.append((batch, picture, future))
                    if len(batch.pictures) == size:
                        batch = _Batch(shard, batch.began)
                else:
                    batch.last, batch.error = True, picture
                    ahead.append((batch, None, future))
                while len(ahead) > _AHEAD * size:
                    self._place(*ahead.popleft())
        while ahead:
            self._place(*ahead.popleft())
        self._batches.give(None)

    def _pictures(self, shard: Planned) -> Iterator[Picture | ResnextError | None]:
        """The pictures of ``shard``, and at its end None, or why there are no more."""
        try:
            yield from shard.shard.pictures()
        except ResnextError as exc:
            yield exc
        else:
            yield None

    def _place(self, batch: _Batch, picture: Picture | None, future: Future[Decoded]) -> None:
        """Put a decoded picture into its batch, and give the batch to the session if it is full."""
        black, place = self._pipeline.black, batch.placed
        if picture is not None:
            image, problem, read, decode = self._result(picture, future)
            batch.placed += 1
            batch.read += read
            batch.decode += decode
            if image is None:
                batch.problems[place] = problem
            else:
                if batch.images is None:
                    batch.images = np.empty_like(black)
                batch.images[place] = image
        if picture is None or batch.placed == len(black):
            if batch.images is not None:
                for hole in (*batch.problems, *range(batch.placed, len(black))):
                    batch.images[hole] = black[hole]
            self._batches.give(batch)

    def _result(self, picture: Picture, future: Future[Decoded]) -> Decoded:
        self._pipeline.progress.decoding = picture.key
        while not future.done() and not wait((future,), _ASK_S).done:
            if self._stop.is_set():
                raise _Stopped
        self._pipeline.progress.decoding = ""
        return future.result()

    def _infer(self) -> None:
        progress, idle = self._pipeline.progress, now_ns()
        while (batch := self._batches.take()) is not None:
            began = now_ns()
            batch.starved = began - idle
            if batch.images is not None:
                progress.running = began
                batch.logits = self._pipeline.run_once(batch.images)
                progress.running = 0
            done = now_ns()
            batch.session, batch.images = done - began, None
            self._answers.give(batch)
            idle = now_ns()
            batch.blocked = idle - done
        self._answers.give(None)

    def _write(self) -> None:
        while (batch := self._answers.take()) is not None:
            try:
                self.events.give(self._written(batch))
            except OSError as exc:
                raise cannot_write(self._pipeline._output, exc) from exc
        self.events.give(_End())

    def _written(self, batch: _Batch) -> Receipt | Failed:
        """Write the shard that begins with ``batch``."""
        pipeline, shard = self._pipeline, batch.shard
        request, output = pipeline._request, pipeline._output
        name = part_name(shard.id, request.format)
        times, failures, count = Counter[str](), list[Failure](), 0
        try:
            with written_whole(output / name) as file:
                part = FORMATS[request.format](file, logits=request.logits)
                while True:
                    rows = pipeline.rows(batch)
                    part.append(rows)
                    bad = [it for it in rows if it["error"] is not None]
                    found = [Failure(key=it["key"], reason=it["error"]) for it in bad]
                    failures += found
                    count += len(rows)
                    pipeline.progress.pictures += len(rows)
                    pipeline.progress.failures += len(found)
                    for kind in ("session", "read", "decode", "starved"):
                        times[kind] += getattr(batch, kind)
                    blocked = batch
                    if batch.last:
                        break
                    following = self._answers.take()
                    assert following is not None  # only a last batch ends a shard
                    batch = following
                    times["blocked"] += blocked.blocked
                if batch.error is not None:
                    raise batch.error
                part.finish()
        except ResnextError as exc:
            return Failed(shard, exc)
        receipt = Receipt(
            shard=shard.id,
            name=plain(shard.shard.name),
            part=name,
            part_sha256=file_sha256(output / name),
            rows=count,
            failures=tuple(failures),
            times=Times(**times, wall=now_ns() - batch.began),
            worker=f"{socket.gethostname()} {os.getpid()}",
            threads=pipeline._threads,
            decode_threads=pipeline._decode_threads,
            artifact_sha256=request.artifact_sha256,
        )
        write_receipt(receipt, output)
        return receipt


class _Stopped(Exception):
    """The flow was told to stop."""


class _Pipe(Generic[T]):
    """A bounded queue between threads that can be told to stop."""

    def __init__(self, stop: Event, most: int) -> None:
        self._stop = stop
        self._queue: queue.Queue[T] = queue.Queue(most)

    def give(self, item: T) -> None:
        """Put ``item``, when there is room."""
        while not self._stop.is_set():
            with suppress(queue.Full):
                return self._queue.put(item, timeout=_ASK_S)
        raise _Stopped

    def take(self) -> T:
        """The next item, when there is one."""
        while not self._stop.is_set():
            with suppress(queue.Empty):
                return self._queue.get(timeout=_ASK_S)
        raise _Stopped

    def look(self, timeout_s: float) -> T | None:
        """The next item, or None after a time."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
