"""What a run did, and what bounded it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from resnext.artifact.specs import Strict
from resnext.storage import write_whole

from .receipt import Count, Receipt, Times
from .request import Request

Bound = Literal["session", "decode", "read", "write", "idle"]
#: Share of the time from which on the session is the bound.
BUSY = 0.95
_SAYS: dict[Bound, str] = {
    "session": "session-bound: session busy {share:.0%} of the time",
    "decode": (
        "decode-bound: session busy {share:.0%} of the time; add `decode_threads`, which are"
        " {decode_threads}, or smaller pictures"
    ),
    "read": (
        "disk-bound: session busy {share:.0%} of the time, and reading pictures took longer than"
        " decoding them; use faster storage, tar files, or more `decode_threads`, which are"
        " {decode_threads}"
    ),
    "write": (
        "disk-bound: session busy {share:.0%} of the time, and it waited for rows to be written;"
        " use faster storage, or leave `logits` out"
    ),
    "idle": (
        "bound by the number of shards: session busy {share:.0%} of the time, and most of the rest"
        " no shard was left for it or it was between two; use fewer `workers`, or more shards"
    ),
}


class ShardLine(Strict):
    """A shard in the summary.

    Attributes:
        name: in the input.
        shard: its id.
        part: its file; None if it failed.
        rows: pictures.
        failures: pictures without a result.
        error: why there is no part, or None.
    """

    name: str
    shard: str
    part: str | None
    rows: Count = 0
    failures: Count = 0
    error: str | None = None


class Summary(Strict):
    """A run over an input.

    Attributes:
        format_version: version of this record.
        request: what was asked for.
        shards: every shard, in the order of the input.
        rows: pictures of all shards that have a part.
        failures: those without a result.
        rows_now: pictures of the shards that this run did.
        earlier: shards that an earlier run had finished.
        superseded: files of shards that are not in the input any more, moved away by this run.
        workers: workers of this run.
        decode_threads: of each worker.
        times: where the time of this run went, the sum over its shards; ``wall`` is that of the
            run, from the first shard to the last receipt, ns.
        busy_share: session time over wall time and workers; None if there was nothing to do.
        bound: what bounded the run; None if there was nothing to do.
    """

    format_version: Literal[1] = 1
    request: Request
    shards: tuple[ShardLine, ...]
    rows: Count
    failures: Count
    rows_now: Count
    earlier: Count
    superseded: Count
    workers: Annotated[int, Field(ge=1)]
    decode_threads: Annotated[int, Field(ge=1)]
    times: Times
    busy_share: float | None
    bound: Bound | None

    @property
    def images_per_s(self) -> float:
        """Pictures of this run over its time; 0 if nothing ran."""
        return self.rows_now / self.times.wall * 1e9 if self.times.wall else 0.0

    @property
    def verdict(self) -> str:
        """What bounded the run, in one line with fields in backticks; "" if nothing ran."""
        if self.bound is None or self.busy_share is None:
            return ""
        return _SAYS[self.bound].format(share=self.busy_share, decode_threads=self.decode_threads)

    @property
    def failed_shards(self) -> tuple[ShardLine, ...]:
        """Shards without a part."""
        return tuple(it for it in self.shards if it.part is None)


def total(receipts: Iterable[Receipt], wall: int) -> Times:
    """The times of a run over ``receipts`` that took ``wall`` ns."""
    kinds = [kind for kind in Times.model_fields if kind != "wall"]
    parts = [it.times for it in receipts]
    sums: Mapping[str, int] = {kind: sum(getattr(it, kind) for it in parts) for kind in kinds}
    return Times(**sums, wall=wall)


def bound_of(times: Times, workers: int) -> tuple[float, Bound]:
    """Share of the time that sessions were busy, and what kept them from more."""
    all_wall = max(1, times.wall * workers)
    share = times.session / all_wall
    if share >= BUSY:
        return share, "session"
    rest = all_wall - times.session - times.starved - times.blocked
    waits: dict[Bound, int] = {
        "read" if times.read > times.decode else "decode": times.starved,
        "write": times.blocked,
        "idle": rest,
    }
    return share, max(waits, key=lambda kind: waits[kind])


def write_summary(summary: Summary, output: Path) -> None:
    """Write ``summary`` into ``output``.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(output / "summary.json", summary.model_dump_json(indent=2).encode() + b"\n")
