"""A sentence of an explanation: what it says, where that is from, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol, TypeAlias

from resnext.artifact.specs import Strict

from .facts import Backend, Facts

#: ``computed`` from the network, this machine's features and ceilings, and the weights; a ``known``
#: limit of a library or machine; ``measured`` on this machine before.
Source: TypeAlias = Literal["computed", "known", "measured"]
#: What to expect: it ``cannot`` be made or run; it was ``faster``, ``slower`` or the ``same`` as
#: fp32 here; it is of ``no use``; nothing speaks against a ``try``. ``baseline`` is fp32.
Outlook: TypeAlias = Literal["baseline", "cannot", "faster", "slower", "same", "no use", "try"]
#: Of several outlooks, the first one counts: what was measured beats what was computed.
STRONGEST: tuple[Outlook, ...] = (
    "baseline",
    "cannot",
    "faster",
    "slower",
    "same",
    "no use",
    "try",
)


class Sentence(Strict):
    """One sentence.

    Attributes:
        text: fields are named in backticks.
        source: kind of its source.
        where: the release, the file or the day; "" if it is computed.
        outlook: what it means; None if it is only good to know.
    """

    text: str
    source: Source
    where: str = ""
    outlook: Outlook | None = None


#: Looks at the facts; None if it has nothing to say.
Rule: TypeAlias = Callable[[Facts], Sentence | None]


class PrecisionRule(Protocol):
    """A rule for one precision."""

    def __call__(self, facts: Facts, precision: str) -> Sentence | None:
        """Look at the facts; None if there is nothing to say."""


def computed(text: str, outlook: Outlook | None = None) -> Sentence:
    """What follows from network, machine and weights."""
    return Sentence(text=text, source="computed", outlook=outlook)


def known(text: str, where: str, outlook: Outlook | None = None) -> Sentence:
    """What a release or another machine is known for."""
    return Sentence(text=text, source="known", where=where, outlook=outlook)


def outlook_of(sentences: Iterable[Sentence]) -> Outlook:
    """The strongest outlook; ``try`` if none has one."""
    found = {sentence.outlook for sentence in sentences}
    return next((each for each in STRONGEST if each in found), "try")


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def named(backends: Iterable[Backend]) -> str:
    """The names of ``backends``, as a sentence has them."""
    return listed([each.name for each in backends])
