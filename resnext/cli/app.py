"""Shared by all commands: one-line errors with exit codes, fields spelled as flags, signals,
standard streams that cannot be written.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from resnext.errors import BadInput, MissingRequirement, ResnextError
from resnext.errors import printable as printable
from resnext.machine.faults import FULL, environment_fault
from resnext.readers.files import check_utf8
from resnext.storage import remove_own

F = TypeVar("F", bound=Callable[..., Any])

#: Click settings of every command.
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def guarded(function: F) -> F:
    """Report an error of this toolkit as one line on stderr, and exit with its code.

    Fields that a message or hint names in backticks are spelled as flags of the running command
    (`as_flags`). Adds ``--debug``, which shows the traceback instead. Ctrl-C and SIGTERM unwind
    the stack, so no partial file remains.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, debug: bool, **kwargs: Any) -> Any:
        previous = {
            number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)
        }
        earlier = _children()
        _interrupted.clear()
        log, remarks = logging.getLogger("resnext"), _Remarks()
        log.addHandler(remarks)
        try:
            try:
                _check_text(kwargs)
                return function(*args, **kwargs)
            finally:
                if _interrupted:  # a library may have wrapped it in another error, or swallowed it
                    raise KeyboardInterrupt
        except ResnextError as exc:
            if debug:
                raise
            _report(printable(as_flags(str(exc))))
            sys.exit(exc.exit_code)
        except KeyboardInterrupt:
            for number in previous:
                signal.signal(number, signal.SIG_IGN)
            for child in _children() - earlier:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            remove_own()
            _interrupted_in_one_line()
        except click.UsageError as exc:
            refuse(exc)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            if debug and not isinstance(exc, BrokenPipeError):
                raise
            if isinstance(exc, BrokenPipeError):
                unwritable(exc)
            if fault := environment_fault(exc):
                also = f"; {_DOCTOR}" if type(exc) is ImportError else ""  # installed, and broken
                _report(printable(as_flags(f"{fault}{also}")))
                sys.exit(fault.exit_code)
            if isinstance(exc, OSError) and isinstance(exc.filename, str | bytes | os.PathLike):
                _report(f"cannot use {printable(os.fsdecode(exc.filename))}: {exc.strerror}")
                sys.exit(BadInput.exit_code)
            text = " ".join(str(exc).split()) or "no message"
            _report(f"unexpected {type(exc).__name__}: {text[:300]} (--debug shows where)")
            sys.exit(70)
        finally:
            log.removeHandler(remarks)
            for number, handler in previous.items():
                signal.signal(number, handler)

    option = click.option(
        "--debug", is_flag=True, help="Show tracebacks instead of one-line errors."
    )
    return option(wrapper)  # type: ignore[return-value]  # the decorated function keeps its name and options


class _Remarks(logging.Handler):
    """Prints what the library logs: one line on stderr, fields spelled as flags."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``."""
        text = printable(as_flags(record.getMessage()))
        click.echo(f"{record.levelname.lower()}: {text}", err=True)


def _check_text(arguments: Mapping[str, Any]) -> None:
    """Refuse texts that no manifest or report can hold, and that libraries cannot open.

    Raises:
        BadInput: an argument or the current folder, which paths are relative to, is not UTF-8.
    """
    for name, value in arguments.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str | os.PathLike):
                check_utf8(text, f"the value of `{name}`")
    with suppress(OSError):  # it was removed; absolute paths still work
        check_utf8(Path.cwd(), "the current folder")


def as_flags(text: str, command: click.Command | None = None) -> str:
    """Spell fields in backticks as flags: `` `batch` `` becomes ``--batch``.

    Args:
        text: an error, finding or hint of the library.
        command: the command with the options; by default the running one. A field that is not
            one of its parameters becomes ``--`` and the name with dashes.
    """
    context = click.get_current_context(silent=True)
    if command is not None:
        context = click.Context(command)
    declared = context.command.get_params(context) if context is not None else []
    parameters = {parameter.name: parameter for parameter in declared}

    def flag(match: re.Match[str]) -> str:
        parameter = parameters.get(match[1])
        if isinstance(parameter, click.Argument):
            return parameter.human_readable_name
        options = parameter.opts if parameter is not None else ()
        long = [option for option in options if option.startswith("--")]
        return long[0] if long else "--" + match[1].replace("_", "-")

    return re.sub(r"`([^\W\d]\w*)`", flag, text)


def refuse(exc: click.UsageError) -> NoReturn:
    """Report a usage error in one line, like every other error, and exit."""
    text = " ".join(exc.format_message().split()).rstrip(".")
    _report(f"{text} (--help shows every option)")
    sys.exit(exc.exit_code)


@contextmanager
def parsing() -> Iterator[None]:
    """Around the parsing of options: a usage error is one line, like every other error, and so is
    an output that cannot be written.

    A closed stdout is refused before any work. The descriptors of closed standard streams are
    taken, or a library's output would go into the first file that is opened.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # kept open
    if sys.stdout is None:
        _report("stdout is closed; redirect it to a file or to /dev/null")
        sys.exit(MissingRequirement.exit_code)
    try:
        yield
    except KeyboardInterrupt:
        _interrupted_in_one_line()
    except click.UsageError as exc:
        refuse(exc)
    except OSError as exc:
        if exc.errno not in _UNWRITABLE:
            raise
        unwritable(exc)


def _children() -> set[int]:
    """Process ids of the children of this process; none on a system that does not list them."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that has just ended
            found.update(map(int, listed.read_text().split()))
    return found


def _interrupted_in_one_line() -> NoReturn:
    _say("interrupted; nothing half-written was left")
    sys.exit(130)


def unwritable(exc: OSError) -> NoReturn:
    """Report an output that cannot be written, and exit; silently if its reader has gone."""
    if exc.errno == errno.EPIPE:
        sys.stderr.close()
        sys.exit(141)
    _report(f"cannot write: {exc.strerror}; make room, or write elsewhere")
    sys.exit(MissingRequirement.exit_code)


#: What a full disk, a quota, a limit, a read-only disk and a pipe without a reader answer.
_UNWRITABLE = (*FULL, errno.EPIPE)
_DOCTOR = "resnext-export doctor shows what else is wrong"
_interrupted: list[int] = []


def _interrupt(number: int, _frame: object) -> None:
    _interrupted.append(number)
    raise KeyboardInterrupt


def _report(text: str) -> None:
    _say(f"{_styled('error:')} {text}")


def _say(line: str) -> None:
    with suppress(OSError):  # stderr is full or gone; the exit code still tells
        click.echo(line, err=True)


def _styled(text: str) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, fg="red", bold=True)


def echo(line: str, *, err: bool = False) -> None:
    """Print one line that may hold names, which may hold any character."""
    click.echo(printable(line), err=err)
