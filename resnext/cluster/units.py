"""A unit of work, and how it was settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnext.errors import ResnextError


@dataclass(frozen=True)
class Unit:
    """One piece of work, which any worker can do, and which may be done again: a worker that is
    lost gives it back.

    Attributes:
        id: name of the unit, unique among those that are dispatched together.
        payload: what to do; can be pickled.
        places: where it may be done, as the crew names places; None for anywhere.
    """

    id: str
    payload: Any = None
    places: frozenset[str] | None = None


@dataclass(frozen=True)
class Settled:
    """A unit that needs no more work. Each unit has exactly one.

    Attributes:
        unit: the unit.
        place: where it was done or last tried; "" if no worker ever had it.
        tries: workers that had it.
        receipt: what the work returned.
        error: what the work raised: the answer to this unit, whichever worker is asked.
        lost: why there is no answer: every worker that had it was lost, or there was none; "" if
            there is one.
    """

    unit: Unit
    place: str
    tries: int
    receipt: Any = None
    error: ResnextError | None = None
    lost: str = ""
