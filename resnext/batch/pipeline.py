"""A session with decoders before it and a writer behind it, each at its own pace.

Which pictures share a batch depends on the shard alone: a picture that cannot be read leaves a
black one in its place, and the last batch of a shard is filled with black ones. So a row does not
depend on how many threads or workers there are, nor on what was done before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resnext.errors import BadInput, NeverReturned, SessionFailed
from resnext.images.pictures import opened_bytes
from resnext.images.shards.shard import Picture
from resnext.runtimes.session import Session
from resnext.timing.clock import now_ns

from .flow import Decoded, End, Failed, Flow, Progress, Stages
from .plan import Planned
from .receipt import Receipt
from .request import Request
from .rows import Row, rows_of

#: Silence after which a pipeline counts as hung, seconds.
PATIENCE_S = 1800.0


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

    Attributes:
        progress: how far it is.
        hung: a thread did not end when it was told to, so the session cannot be closed.
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
        self.hung = False
        self._session, self._request, self._patience_s = session, request, patience_s
        self._class_names, self._baked = class_names, baked
        preprocessing = request.preprocessing
        shape = (request.batch, *preprocessing.crop, len(preprocessing.mean))
        black = np.zeros(shape, np.uint8)
        self._stages = Stages(
            request,
            output,
            black if baked else self._normalized(black),
            self._decoded,
            self._logits,
            self._rows,
            threads,
            decode_threads,
        )
        self.progress = self._stages.progress

    def warm_up(self) -> None:
        """Run once on black pictures: runtimes choose kernels for a shape when they first see it.

        Raises:
            SessionFailed: the session fails, or its output is not N x classes.
        """
        self._logits(self._stages.black)

    def run(
        self,
        shards: Iterable[Planned | None],
        look: Callable[[Progress], object] = lambda _: None,
        look_s: float = 1.0,
    ) -> Generator[Receipt | Failed]:
        """Do ``shards``, one after the other without a gap, and yield the receipt of each when it
        is written. Closing the iterator abandons what is not.

        Args:
            shards: what to do. None among them means that the next one is not there yet, so that
                those before are finished first.
            look: called about every ``look_s`` seconds.
            look_s: seconds.

        Raises:
            SessionFailed: the session failed.
            NeverReturned: nothing happened for ``patience_s``; says what was waited for. The
                session must not be used again.
            MissingRequirement: a part or receipt cannot be written.
        """
        flow = Flow(self._stages, shards)
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
        self, flow: Flow, look: Callable[[Progress], object], look_s: float
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
            if isinstance(event, End):
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
        image: NDArray[Any] | None = None
        problem = ""
        try:
            data = picture.load()
            read = now_ns()
            with opened_bytes(data, picture.key) as opened:
                image = self._request.preprocessing.to_pixels(opened)
            if not self._baked:
                image = self._normalized(image[np.newaxis])[0]
        except BadInput as exc:
            problem = str(exc)
        return image, problem, read - began, now_ns() - read

    def _logits(self, images: NDArray[Any]) -> NDArray[Any]:
        """The logits of one batch; an output with another number of rows is an error."""
        session = self._session
        logits = session.run({session.inputs[0].name: images})[session.outputs[0].name]
        if logits.ndim != 2 or len(logits) != len(images):
            raise SessionFailed(f"logits have shape {logits.shape}, want {len(images)} x classes")
        return logits

    def _normalized(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        return self._session.inputs[0].cast(self._request.preprocessing.normalize(pixels))

    def _rows(
        self, pictures: Sequence[Picture], problems: dict[int, str], logits: NDArray[Any] | None
    ) -> list[Row]:
        return rows_of(
            pictures,
            problems,
            logits,
            top=self._request.top,
            with_logits=self._request.logits,
            class_names=self._class_names,
        )
