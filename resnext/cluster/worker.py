"""In a worker: its factory, its signs of life, and its errors as messages."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from resnext import errors
from resnext.errors import ResnextError, SessionFailed, UsageError, first_line

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


def make(factory: str, args: tuple[Any, ...]) -> Work:
    """Call ``factory``, which is named ``module:function``.

    Raises:
        UsageError: there is none of this name.
    """
    module, _, name = factory.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise UsageError(f"there is no factory {factory}: {first_line(exc)}") from exc
    work: Work = function(*args)
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
