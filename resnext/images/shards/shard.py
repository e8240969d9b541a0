"""A shard, and the pictures in it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

#: A class as a data set has it: its index, or its name.
Label: TypeAlias = int | str | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a shard, not read yet.

    Attributes:
        key: its name, unique in its shard; what is no Unicode in a name is escaped.
        label: its class, or None.
        size: of its file, bytes; None if only reading it tells.
        load: reads its file, on any thread, and raises `BadInput` if there is none that can be read
            or it changed since the shards were listed.
    """

    key: str
    label: Label
    size: int | None
    load: Callable[[], bytes] = field(compare=False, repr=False)


class Shard(ABC):
    """A descriptor of some pictures: small, picklable, and without anything open.

    Attributes:
        name: unique among the shards of an input.
        pictures_known: number of its pictures; None if only reading it tells.
        weight: how much work it is, in a unit that all shards of an input share.
    """

    name: str
    pictures_known: int | None
    weight: int

    @abstractmethod
    def listing(self) -> Iterable[str]:
        """What is known of its pictures without reading them. If a picture is added, removed,
        renamed or rewritten, some of these texts change.
        """

    @abstractmethod
    def pictures(self) -> Iterator[Picture]:
        """Its pictures, always in the same order.

        Raises:
            BadInput: nothing in it can be read. A single picture that cannot be raises it in
                `Picture.load`.
        """


def shard_id(shard: Shard, facts: str) -> str:
    """sha256, in hex, of what ``shard`` holds and of ``facts``, on which its outcome also depends.

    The location of the input does not matter.
    """
    digest = hashlib.sha256(facts.encode())
    for text in (shard.name, *shard.listing()):
        encoded = text.encode(errors="surrogateescape")
        digest.update(f"\n{len(encoded)} ".encode() + encoded)
    return digest.hexdigest()


def plain(name: str) -> str:
    """``name`` as Unicode: bytes that are none are written as in Python, ``\\xe9``."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
