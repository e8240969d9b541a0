"""What ``ab`` and ``compare`` share: the margin, strictness, and the exit code of a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from resnext.cli.params import PercentType
from resnext.cli.sections import option_of
from resnext.errors import GateFailed

if TYPE_CHECKING:
    from resnext.timing.change import Verdict

F = TypeVar("F", bound=Callable[..., Any])

_option = option_of("Verdict")


def margin_option(function: F) -> F:
    """Add ``--margin PERCENT``; the value is a share."""
    option: Callable[[F], F] = _option(
        "--margin",
        type=PercentType(),
        default="2%",
        show_default=True,
        metavar="PERCENT",
        help="A change of at most this much, in either direction, counts as none.",
    )
    return option(function)


def strict_option(function: F) -> F:
    """Add ``--strict``."""
    option: Callable[[F], F] = _option(
        "--strict", is_flag=True, help="Exit 1 if a verdict is CANNOT TELL, too."
    )
    return option(function)


class Judged(Protocol):
    """What has a verdict."""

    @property
    def verdict(self) -> Verdict:
        """SLOWER and CANNOT TELL count."""


def exit_on(changes: Sequence[Judged], *, strict: bool) -> None:
    """End with exit code 1 if one of ``changes`` is SLOWER, or unknown and that counts.

    Raises:
        GateFailed: so.
    """
    for verdict, counts in (("SLOWER", True), ("CANNOT TELL", strict)):
        number = sum(change.verdict == verdict for change in changes)
        if number and counts:
            of = f" for {number} of {len(changes)} rows" if len(changes) > 1 else ""
            raise GateFailed(f"the verdict is {verdict}{of}")
