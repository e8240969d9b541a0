"""What the dispatcher needs of a crew: slots with a worker each, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from typing_extensions import Self

from resnext.errors import ResnextError


@dataclass(frozen=True)
class Ready:
    """The worker in ``slot`` has been made."""

    slot: str


@dataclass(frozen=True)
class Beat:
    """The worker in ``slot`` is alive, and says what it does."""

    slot: str
    line: str


@dataclass(frozen=True)
class Answer:
    """The worker in ``slot`` has done the unit ``id``, or its work raised ``error``."""

    slot: str
    id: str
    receipt: Any = None
    error: ResnextError | None = None


@dataclass(frozen=True)
class Ended:
    """The worker in ``slot`` is no more.

    Attributes:
        slot: its slot.
        reason: why, in one line.
        error: what its factory raised: another worker would fail in the same way.
    """

    slot: str
    reason: str
    error: ResnextError | None = None


Event = Ready | Beat | Answer | Ended


class Crew(Protocol):
    """Workers. A context manager: at its end, no worker is left.

    Attributes:
        depth: units that a worker does at once, each on a thread. It begins them in order.
    """

    depth: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def slots(self) -> Mapping[str, str]:
        """The place of every slot by the slot's name; slots come and go with their machines."""
        ...

    def start(self, slot: str) -> None:
        """Start a worker in an empty slot. It says `Ready` or `Ended` later."""
        ...

    def give(self, slot: str, id: str, payload: Any) -> None:
        """Give a unit to the worker in ``slot``, which says `Answer` or `Ended` later."""
        ...

    def stop(self, slot: str) -> None:
        """End the worker in ``slot`` now; it says nothing more."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """What workers say next; empty if they are silent until the timeout."""
        ...

    def missing(self) -> str:
        """What keeps slots or workers from coming, in one line; "" if nothing is known."""
        ...
