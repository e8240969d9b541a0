"""In a worker: its factory, its signs of life, and its errors as messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from itertools import chain, repeat
from typing import Any

from resnext import errors
from resnext.errors import ResnextError, SessionFailed, UsageError, first_line

from .parcels import Parcel

#: Class, message and hint of an error.
Failure = tuple[str, str, str]
Work = Callable[[Any], Any]

_beat: Callable[[str], None] = lambda _: None  # noqa: E731  # replaced by `heard_by`


def beat(line: str = "") -> None:
    """Say that the work goes on, and how far it is. Elsewhere than in a worker: do nothing."""
    _beat(line)


def heard_by(function: Callable[[str], None]) -> None:
    """Let ``function`` hear every `beat` of this process."""
    global _beat
    _beat = function


def make(
    factory: str, args: tuple[Any, ...], sent: Iterable[Mapping[str, bytes] | None] = ()
) -> Work:
    """Call ``factory``, which is named ``module:function``.

    Args:
        factory: its name.
        args: its arguments; a `Parcel` arrives first, and the factory gets its path.
        sent: contents of the parcels, in order, as far as they were sent.

    Raises:
        UsageError: there is none of this name.
        ResnextError: as `Parcel.arrive`, and what the factory raises.
    """
    module, _, name = factory.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise UsageError(f"there is no factory {factory}: {first_line(exc)}") from exc
    contents = chain(sent, repeat(None))
    here = [arg.arrive(next(contents)) if isinstance(arg, Parcel) else arg for arg in args]
    work: Work = function(*here)
    return work


def failure_of(error: BaseException) -> Failure:
    """An error as a message; one that is not the toolkit's is said to be unexpected."""
    if isinstance(error, ResnextError):
        return type(error).__name__, error.message or str(error), error.hint
    return "SessionFailed", f"unexpected {type(error).__name__}: {first_line(error)[:300]}", ""


def error_of(failure: Failure) -> ResnextError:
    """The error of a message."""
    kind, message, hint = failure
    found = getattr(errors, kind, SessionFailed)
    if not (isinstance(found, type) and issubclass(found, ResnextError)):
        found = SessionFailed
    if found is errors.UnknownName:
        found = UsageError
    error: ResnextError = found(message, hint=hint)
    return error
