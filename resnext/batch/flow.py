"""The threads of a pipeline and the queues between them.

One thread gives pictures to decoders, a little ahead, and puts what comes back into batches; one
runs the session; one writes. Every queue is bounded, so memory does not grow with the input, and
every wait ends when the flow is told to stop.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ResnextError
from resnext.images.shards.folder import file_status
from resnext.images.shards.shard import Picture, plain
from resnext.readers.files import file_sha256
from resnext.storage import written_whole
from resnext.timing.clock import now_ns

from .parts import FORMATS
from .plan import Planned
from .receipt import Failure, Receipt, Times, cannot_write, part_name, write_receipt
from .request import Request
from .rows import Row

T = TypeVar("T")
#: Batches that wait for the session, and that wait to be written.
_QUEUED = 3
#: Batches that are being decoded beyond those.
_AHEAD = 2
#: How often a thread that waits for a picture asks whether to stop, seconds.
_ASK_S = 0.1
#: How long to wait for a thread that was told to stop, seconds.
STOP_S = 5.0
#: An image or None, the problem if there is none, and ns of reading and of decoding.
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


@dataclass(frozen=True)
class Stages:
    """What the threads do.

    Attributes:
        request: what to do.
        output: folder of parts and receipts.
        black: a batch of black pictures, as the session takes it.
        decode: reads and decodes a picture; on any thread.
        infer: the logits of a batch; on one thread.
        rows: the rows of some pictures, of what is wrong with some, and of their logits.
        threads: CPU threads of the session, for receipts.
        decode_threads: threads that decode.
        progress: how far it is.
    """

    request: Request
    output: Path
    black: NDArray[Any]
    decode: Callable[[Picture], Decoded]
    infer: Callable[[NDArray[Any]], NDArray[Any]]
    rows: Callable[[list[Picture], dict[int, str], NDArray[Any] | None], list[Row]]
    threads: int
    decode_threads: int
    progress: Progress = field(default_factory=Progress)


class End:
    """All shards are done."""


class Flow:
    """The threads that do ``shards``; they begin at once.

    Args:
        stages: what they do.
        shards: what to do. None among them means that the next one is not there yet.
    """

    def __init__(self, stages: Stages, shards: Iterable[Planned | None]) -> None:
        self._stages, self._shards = stages, shards
        self._stop = Event()
        most = (_AHEAD + 1) * len(stages.black)
        self.events: _Pipe[Receipt | Failed | BaseException | End] = _Pipe()
        self._jobs: _Pipe[tuple[Picture, Future[Decoded]]] = _Pipe(most)
        self._batches: _Pipe[_Batch | None] = _Pipe(_QUEUED)
        self._answers: _Pipe[_Batch | None] = _Pipe(_QUEUED)
        loops = [self._assemble, self._infer, self._write]
        loops += [self._decode] * stages.decode_threads
        # Daemons: a run that never returns must not keep the process from ending.
        self._threads = [Thread(target=self._guarded, args=(it,), daemon=True) for it in loops]
        for thread in self._threads:
            thread.start()

    def end(self) -> bool:
        """Stop all threads; whether one still runs."""
        self._stop.set()
        for pipe in (self._jobs, self._batches, self._answers, self.events):
            pipe.stop()
        for thread in self._threads:
            thread.join(STOP_S)
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
                future.set_result(self._stages.decode(picture))
            except BaseException as exc:
                future.set_exception(exc)

    def _assemble(self) -> None:
        """Give pictures to the decoders, a little ahead, and put what comes back into batches."""
        ahead: deque[tuple[_Batch, Picture | None, Future[Decoded]]] = deque()
        size = len(self._stages.black)
        for shard in self._shards:
            for item in () if shard is None else self._given(shard):
                ahead.append(item)
                while len(ahead) > _AHEAD * size:
                    self._place(*ahead.popleft())
            while shard is None and ahead:
                self._place(*ahead.popleft())
        while ahead:
            self._place(*ahead.popleft())
        self._batches.give(None)

    def _given(self, shard: Planned) -> Iterator[tuple[_Batch, Picture | None, Future[Decoded]]]:
        """Give the pictures of ``shard`` to the decoders: each with its batch, and None at the end
        of the last.
        """
        batch = _Batch(shard, now_ns())
        for picture in self._pictures(shard):
            future: Future[Decoded] = Future()
            if isinstance(picture, Picture):
                batch.pictures.append(picture)
                self._jobs.give((picture, future))
                yield batch, picture, future
                if len(batch.pictures) == len(self._stages.black):
                    batch = _Batch(shard, batch.began)
            else:
                batch.last, batch.error = True, picture
                yield batch, None, future

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
        black, place = self._stages.black, batch.placed
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
        self._stages.progress.decoding = picture.key
        while not future.done() and not wait((future,), _ASK_S).done:
            if self._stop.is_set():
                raise _Stopped
        self._stages.progress.decoding = ""
        return future.result()

    def _infer(self) -> None:
        progress, idle, blocked = self._stages.progress, now_ns(), 0
        while (batch := self._batches.take()) is not None:
            began = now_ns()
            # Before the shard came, there was nothing to wait for.
            batch.starved = max(0, began - max(idle, batch.began))
            batch.blocked = blocked
            if batch.images is not None:
                progress.running = began
                batch.logits = self._stages.infer(batch.images)
                progress.running = 0
            done = now_ns()
            batch.session, batch.images = done - began, None
            self._answers.give(batch)
            idle = now_ns()
            blocked = idle - done
        self._answers.give(None)

    def _write(self) -> None:
        while (batch := self._answers.take()) is not None:
            try:
                self.events.give(self._written(batch))
            except OSError as exc:
                raise cannot_write(self._stages.output, exc) from exc
        self.events.give(End())

    def _batches_of(self, first: _Batch) -> Iterator[_Batch]:
        """The batches of the shard that begins with ``first``.

        Raises:
            ResnextError: the shard cannot be read to its end.
        """
        batch: _Batch | None = first
        while batch is not None:
            yield batch
            if batch.error is not None:
                raise batch.error
            batch = None if batch.last else self._answers.take()

    def _written(self, first: _Batch) -> Receipt | Failed:
        """Write the shard that begins with ``first``."""
        stages, shard = self._stages, first.shard
        request, output = stages.request, stages.output
        name = part_name(shard.id, request.format)
        times, failures, count = Counter[str](), list[Failure](), 0
        try:
            with (
                written_whole(output / name) as file,
                FORMATS[request.format](file, logits=request.logits) as part,
            ):
                for batch in self._batches_of(first):
                    rows = stages.rows(batch.pictures, batch.problems, batch.logits)
                    part.append(rows)
                    bad = [it for it in rows if it["error"] is not None]
                    failures += [Failure(key=it["key"], reason=it["error"]) for it in bad]
                    count += len(rows)
                    stages.progress.pictures += len(rows)
                    stages.progress.failures += len(bad)
                    for kind in ("session", "read", "decode", "starved", "blocked"):
                        times[kind] += getattr(batch, kind)
        except ResnextError as exc:
            return Failed(shard, exc)
        size, changed = file_status(output / name)
        receipt = Receipt(
            shard=shard.id,
            name=plain(shard.shard.name),
            part=name,
            part_sha256=file_sha256(output / name),
            part_bytes=size,
            part_changed=changed,
            rows=count,
            failures=tuple(failures),
            times=Times(**times, wall=now_ns() - first.began),
            worker=f"{socket.gethostname()} {os.getpid()}",
            threads=stages.threads,
            decode_threads=stages.decode_threads,
            artifact_sha256=request.artifact_sha256,
        )
        write_receipt(receipt, output)
        return receipt


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


class _Stopped(Exception):
    """The flow was told to stop."""


class _Pipe(Generic[T]):
    """A queue between threads, of at most ``most`` items, that can be told to stop."""

    def __init__(self, most: int | None = None) -> None:
        self._most, self._stopped = most, False
        self._items: deque[T] = deque()
        self._changed = Condition()

    def give(self, item: T) -> None:
        """Put ``item``, when there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) != self._most)
            if self._stopped:
                raise _Stopped
            self._items.append(item)
            self._changed.notify_all()

    def take(self) -> T:
        """The next item, when there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._items)
            if self._stopped:
                raise _Stopped
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def look(self, timeout_s: float) -> T | None:
        """The next item, or None after a time."""
        with self._changed:
            self._changed.wait_for(lambda: self._items, timeout_s)
            return self._items.popleft() if self._items else None

    def stop(self) -> None:
        """Let every thread that waits here, or will, end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
