"""What every command shares: errors in one line with the right exit code, weights options,
signals.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from resnext.errors import MissingRequirement, ResnextError, UnknownName, UsageError
from resnext.network.config import VARIANTS

if TYPE_CHECKING:
    from resnext.weights.spec import Weights

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    _ParamType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

#: Click settings of every command.
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def guarded(function: F) -> F:
    """Turn errors of this toolkit into one line on stderr and their exit code.

    Adds ``--debug``, which shows the traceback instead. Ctrl-C and SIGTERM unwind, so that nothing
    half-written stays.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, debug: bool, **kwargs: Any) -> Any:
        previous = {
            number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)
        }
        _interrupted.clear()
        try:
            return function(*args, **kwargs)
        except ResnextError as exc:
            if debug:
                raise
            click.echo(f"{_styled('error:')} {exc}", err=True)
            sys.exit(exc.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing half-written was left", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(141)
        except click.UsageError as exc:
            _refuse(exc)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (ModuleNotFoundError, MemoryError) as exc:
            if debug:
                raise
            click.echo(f"{_styled('error:')} {lacking(exc)}", err=True)
            sys.exit(MissingRequirement.exit_code)
        except Exception as exc:
            if _interrupted:  # a library wrapped the interruption in an error of its own
                click.echo("interrupted; nothing half-written was left", err=True)
                sys.exit(130)
            if debug:
                raise
            if isinstance(exc, OSError) and exc.errno in (
                errno.ENOSPC,
                errno.EDQUOT,
                errno.EFBIG,
                errno.EROFS,
            ):
                click.echo(
                    f"{_styled('error:')} cannot write: {exc.strerror}; make room, or write"
                    " elsewhere",
                    err=True,
                )
                sys.exit(MissingRequirement.exit_code)
            text = " ".join(str(exc).split()) or "no message"
            click.echo(
                f"{_styled('error:')} unexpected {type(exc).__name__}: {text[:300]} (--debug shows"
                " where)",
                err=True,
            )
            sys.exit(70)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    option = click.option(
        "--debug", is_flag=True, help="Show tracebacks instead of one-line errors."
    )
    return option(wrapper)  # type: ignore[return-value]  # the decorated function keeps its name and options


class OneLineCommand(click.Command):
    """A command whose own complaints about its options are one line too, like every other error."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as exc:
            _refuse(exc)


class OneLineGroup(click.Group):
    """A command with subcommands beside its own options, and complaints in one line."""

    command_class = OneLineCommand

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as exc:
            _refuse(exc)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the subcommand; a name that is none is one line too."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            _refuse(exc)


def _refuse(exc: click.UsageError) -> NoReturn:
    text = " ".join(exc.format_message().split())
    click.echo(f"{_styled('error:')} {text} (--help shows every option)", err=True)
    sys.exit(exc.exit_code)


_interrupted: list[int] = []


def _interrupt(number: int, _frame: object) -> None:
    _interrupted.append(number)
    raise KeyboardInterrupt


def lacking(exc: ModuleNotFoundError | MemoryError) -> str:
    """What to do about a package or memory that is not there."""
    if isinstance(exc, MemoryError):
        return "out of memory; use a smaller --batch or --input-size"
    package = (exc.name or "").partition(".")[0]
    package = {
        "PIL": "pillow",
        "cpuinfo": "py-cpuinfo",
        "pynvml": "nvidia-ml-py",
        "sklearn": "scikit-learn",
    }.get(package, package)
    return f"the Python package {package or exc} is not installed: pip install {package or 'it'}"


def _styled(text: str) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, fg="red", bold=True)


#: Digits of the largest size or count that is taken: anything longer is a slip of the keyboard.
_MOST_DIGITS = 6


class SecondsType(_ParamType):
    """A finite number of seconds, of at least ``least``."""

    name = "SECONDS"

    def __init__(self, least: float) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Check and convert."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = float("nan")
        if not self._least <= seconds <= 86400:  # false for NaN too
            self.fail(
                f"{value!r} must be a number of seconds from {self._least:g} to 86400", param, ctx
            )
        return seconds


class NameType(_ParamType):
    """A name from a registry; anything else lists the known names and the nearest."""

    def __init__(self, kind: str, known: tuple[str, ...], *, many: bool = False) -> None:
        self.name = kind
        self._known = known
        self._many = many

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check one name, or a comma-separated list of them."""
        if not isinstance(value, str):
            return value
        names = (
            tuple(dict.fromkeys(part.strip() for part in value.split(",")))
            if self._many
            else (value,)
        )
        for name in names:
            if name not in self._known:
                self.fail(str(UnknownName(self.name, name, self._known)), param, ctx)
        return names if self._many else value

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[Any]:
        """Names that start with what was typed."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in self._known if name.startswith(incomplete)]


class CountsType(_ParamType):
    """Whole numbers of at least 1, separated by commas."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and split."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        plain = all(
            part.isascii() and part.isdigit() and len(part) <= _MOST_DIGITS for part in parts
        )
        if not plain or not all(int(part) >= 1 for part in parts):
            self.fail(
                f"{value!r} must be whole numbers of at least 1, separated by commas", param, ctx
            )
        return tuple(dict.fromkeys(int(part) for part in parts))


def check_writable(target: str | Path | None) -> None:
    """Check that a file can be written at ``target`` (None and ``-`` always can), before long work.

    Raises:
        UsageError: the file would be one of an artifact's.
        MissingRequirement: it cannot be written.
    """
    if target is None or str(target) == "-":
        return
    path = Path(target).expanduser().resolve()
    if (path.parent / "manifest.json").exists() and path.exists():
        raise UsageError(
            f"{target} is in an artifact's folder and would be overwritten; choose another path"
        )
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            path.unlink()
        elif path.is_dir() or not os.access(path, os.W_OK):
            raise MissingRequirement(
                f"cannot write {target}: it is a folder or not writable; choose another path"
            )
    except OSError as exc:
        raise MissingRequirement(
            f"cannot write {target}: {exc.strerror}; choose another path"
        ) from exc


def printable(text: str) -> str:
    """``text`` with control characters spelt out: names come from other people's files."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def write_text(target: str, text: str) -> None:
    """Write ``text`` to a file, whole or not at all; ``-`` is stdout. Links are followed, pipes and
    devices written to.

    Raises:
        MissingRequirement: the file cannot be written.
    """
    if target == "-":
        click.echo(text, nl=False)
        return
    path = Path(target).expanduser()
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as stream:
                stream.write(text)
        else:
            path = path.resolve()
            partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
            try:
                partial.write_text(text, encoding="utf-8")
                if path.exists():
                    partial.chmod(path.stat().st_mode & 0o7777)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as exc:
        raise MissingRequirement(
            f"cannot write {target}: {exc.strerror}; choose another path"
        ) from exc
    click.echo(f"wrote {target}", err=True)


def json_option(what: str) -> Callable[[F], F]:
    """Add ``--json PATH``; ``-`` prints JSON alone on stdout."""
    return click.option(
        "--json",
        "json_path",
        metavar="PATH",
        help=f"{what}; - is stdout, and then nothing else is.",
    )


def weights_options(function: F) -> F:
    """Add ``--model``, ``--weights``, ``--num-classes`` and ``--input-size``."""
    for option in (
        click.option(
            "--input-size",
            metavar="HxW",
            help="Input height and width in pixels, where not the variant's own.",
        ),
        click.option(
            "--num-classes",
            type=click.IntRange(min=1),
            help="Classes, where not the variant's own.",
        ),
        click.option(
            "--weights",
            "spec",
            metavar="SPEC",
            help=(
                "seeded[:N], digits, fashion-mnist, or a path to .safetensors or .pth.  "
                "[default: the shipped ones of a shipped model, else seeded]"
            ),
        ),
        click.option(
            "--model",
            type=NameType("model", tuple(VARIANTS)),
            metavar="NAME",
            help=(
                "Variant; resnext-export --list-models shows all.  [default: what the weights"
                " imply, else resnext50_32x4d]"
            ),
        ),
    ):
        function = option(function)
    return function


def chosen_weights(
    model: str | None, spec: str | None, num_classes: int | None, input_size: str | None
) -> Weights:
    """Load what the options of `weights_options` name."""
    from resnext.progress import working
    from resnext.weights.spec import load_weights

    size = None if input_size is None else _size(input_size)
    with working("loading weights"):
        return load_weights(spec, model, num_classes=num_classes, input_size=size)


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    digits = (height, width) if cross else (height,)
    if not (
        text.isascii() and all(part.isdigit() and len(part) <= _MOST_DIGITS for part in digits)
    ):
        raise click.BadParameter(
            f"{text!r} is not HEIGHTxWIDTH in pixels, for example 224x224",
            param_hint="--input-size",
        )
    return int(height), int(width or height)
