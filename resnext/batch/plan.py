"""Which shards of an input are finished, and which are to be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from resnext.errors import BadInput
from resnext.images.shards.shard import Shard, shard_id
from resnext.progress import Amount, Step

from .receipt import RECEIPTS, Receipt, finished
from .request import Request

#: Where parts go whose shard is no longer in the input.
SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Planned:
    """A shard with its id, which names its part and its receipt."""

    id: str
    shard: Shard


@dataclass(frozen=True)
class Plan:
    """The shards of an input.

    Attributes:
        shards: all, in order.
        done: receipts of those that an earlier run finished, by id.
        superseded: files that were moved away: parts and receipts of shards that are not in the
            input any more.
    """

    shards: tuple[Planned, ...]
    done: dict[str, Receipt]
    superseded: int

    @cached_property
    def left(self) -> tuple[Planned, ...]:
        """Those to do, in order."""
        return tuple(it for it in self.shards if it.id not in self.done)


def plan_for(
    request: Request,
    shards: tuple[Shard, ...],
    output: Path,
    say: Callable[[str], object] = lambda _: None,
) -> Plan:
    """Look at every shard's receipt and part in ``output``.

    Files of shards that are not in the input (any more) are moved to ``superseded/``, so that
    ``part-*`` are the rows of the input as it is.

    Raises:
        BadInput: two shards have the same id.
        OSError: a file cannot be moved.
    """
    facts = request.facts
    planned = tuple(Planned(shard_id(shard, facts), shard) for shard in shards)
    ids = {it.id for it in planned}
    if len(ids) < len(planned):
        raise BadInput("two shards are the same")
    done = {}
    amount = Amount(total=len(planned))
    say(Step("looking for finished shards", amount))
    for it in planned:
        amount.done += 1
        receipt = finished(it.id, output, request.format)
        if receipt is not None:
            done[it.id] = receipt
    return Plan(planned, done, _move_others(output, ids, {it[:16] for it in ids}))


def _move_others(output: Path, ids: set[str], short: set[str]) -> int:
    """Move files of shards other than ``ids`` away; returns how many parts and receipts."""
    others = [
        *(it for it in output.glob("part-*.*") if it.stem.removeprefix("part-") not in short),
        *(it for it in output.glob(f"{RECEIPTS}/*.json") if it.stem not in ids),
    ]
    for path in others:
        target = output / SUPERSEDED / path.relative_to(output)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    return len(others)
