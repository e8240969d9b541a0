"""The options of an export on the command line, made from the fields of its request."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click

from resnext.cli.options import OUTPUT
from resnext.cli.params import NameType, NumbersType
from resnext.cli.sections import SectionedGroup, SectionOption, option_of
from resnext.errors import UsageError
from resnext_export.options import Option, RequestFields, options_of
from resnext_export.registry import FORMATS
from resnext_export.triton.options import REPOSITORIES, RepositoryOptions

if TYPE_CHECKING:
    from resnext_export.request import ExportRequest

    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    _ParamType = click.ParamType


F = TypeVar("F", bound=Callable[..., Any])


def output_options(default: str | None = None) -> Callable[[F], F]:
    """Add ``--output DIR``, ``--force`` and ``--check/--no-check``.

    Args:
        default: the folder without ``--output``, as the help says it; None: the option is required.
    """
    option = option_of(OUTPUT)
    folder = "Folder to create." + ("" if default is None else f"  [default: {default}]")

    def add(function: F) -> F:
        for each in (
            option(
                "--check/--no-check",
                default=True,
                help="Compare the written file with PyTorch.  [default: check]",
            ),
            option("--force", is_flag=True, help="Replace an artifact that is already in DIR."),
            option(
                "--output",
                type=click.Path(path_type=Path),
                metavar="DIR",
                required=default is None,
                help=folder,
            ),
        ):
            function = each(function)
        return function

    return add


class ExportGroup(SectionedGroup):
    """A command that takes every field of an export request, whatever formats are registered."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of the request, then those of the command."""
        return [*request_options(), *super().get_params(ctx)]


def request_options() -> list[click.Parameter]:
    """One option for each field: first those of every format, then those of some formats."""
    options: list[click.Parameter] = [_format_option()]
    weights_only = [row.name for row in FORMATS.values() if row.source == "weights"]
    for name, (option, annotation) in options_of(RequestFields).items():
        note = f"  [not for {', '.join(weights_only)}]" if option.graph and weights_only else ""
        options.append(_option(name, option, annotation, option.section, note))
    for model in dict.fromkeys(row.options for row in FORMATS.values()):
        names = [row.name for row in FORMATS.values() if row.options is model]
        heading = f"{model.section} (--format {', '.join(names)})"
        for name, (option, annotation) in options_of(model).items():
            options.append(_option(name, option, annotation, heading))
    heading = f"{RepositoryOptions.section} (--format {', '.join(REPOSITORIES)})"
    for name, (option, annotation) in options_of(RepositoryOptions).items():
        options.append(_option(name, option, annotation, heading))
    return options


def request_from(params: dict[str, Any]) -> ExportRequest:
    """The export request from parsed options; options that nobody set are omitted.

    Raises:
        UsageError: options that exclude each other.
    """
    from resnext_export.request import ExportRequest

    return ExportRequest(
        **{
            name: value
            for name, value in params.items()
            if value is not None and value is not False
        }
    )


#: What a repository of a finished artifact may be told.
_OF_FINISHED = options_of(RepositoryOptions).keys() - {"kind"} | {"format"}


def take_repository_options(fields: dict[str, Any]) -> RepositoryOptions:
    """Take the options of a repository out of ``fields``, which are all that were parsed.

    Raises:
        UsageError: some are set, and ``format`` is no repository; or they do not go together.
    """
    values = {name: fields.pop(name) for name in options_of(RepositoryOptions)}
    given = {name: value for name, value in values.items() if value not in (None, False)}
    kind = fields["format"]
    if given and kind not in REPOSITORIES:
        raise UsageError(f"`{next(iter(given))}` is for `format` {' or '.join(REPOSITORIES)}")
    if "storage_uri" in given and kind != "kserve":
        raise UsageError("`storage_uri` is for `format` kserve")
    if "artifact" in given:
        given |= {name: value for name, value in fields.items() if value not in (None, False)}
        for name in given:
            if name not in _OF_FINISHED:
                raise UsageError(f"the artifact is finished; drop `{name}`")
        given = {name: value for name, value in given.items() if name in values}
    return RepositoryOptions(**given)


def _format_option() -> click.Parameter:
    rows = {row.name: row.about for row in FORMATS.values()} | REPOSITORIES
    about = "; ".join(f"{name}: {text}" for name, text in rows.items())
    return SectionOption(
        ["--format"],
        type=NameType("format", tuple(rows)),
        metavar="|".join(rows),
        help=f"What to export to.  {about}.",
        section="Network",
    )


def _option(
    name: str, option: Option, annotation: Any, section: str, note: str = ""
) -> click.Parameter:
    flag = "--" + (option.flag or name).replace("_", "-")
    text = re.sub(r"`(\w+)`", lambda m: "--" + m[1].replace("_", "-"), option.help)
    if annotation.__origin__ is bool:
        return SectionOption([flag, name], is_flag=True, help=text, section=section)
    kind, metavar = _type(name, option, annotation)
    return SectionOption(
        [flag, name],
        type=kind,
        metavar=option.metavar or metavar,
        help=text + note,
        section=section,
    )


def _type(name: str, option: Option, annotation: Any) -> tuple[Any, str | None]:
    """The click type of a field, and the placeholder for its value in the help."""
    kind = option.kind or name.replace("_", " ")
    if option.choices:
        return NameType(kind, option.choices), None
    parts = _alternatives(annotation.__origin__)
    if tuple[float, ...] in parts:
        return NumbersType(), None
    if float in parts:
        return float, None
    names = tuple(str(each) for part in parts for each in get_args(part) if _is(part, Literal))
    if listed := [get_args(part)[0] for part in parts if _is(part, tuple)]:
        elements = get_args(listed[0])
        return _ListType(kind, names, elements), "|".join((*names, *elements)) + "[,...]"
    if names and len(parts) == 1:
        return NameType(kind, names), "|".join(names)
    if names:
        return _WidthType(kind, names), None
    if int in parts:
        return click.IntRange(_limit(annotation, "ge"), _limit(annotation, "le")), "N"
    return click.Path(path_type=Path) if Path in parts else str, None


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, without None."""
    if get_origin(annotation) not in (Union, UnionType):
        return [annotation]
    return [part for part in get_args(annotation) if part is not type(None)]


def _is(annotation: Any, origin: Any) -> bool:
    return get_origin(annotation) is origin


def _limit(annotation: Any, name: str) -> int | None:
    limits = annotation.__metadata__
    return next((getattr(each, name) for each in limits if hasattr(each, name)), None)


class _ListType(_ParamType):
    """Distinct values separated by commas, or one name that excludes all others."""

    def __init__(self, kind: str, alone: tuple[str, ...], elements: tuple[str, ...]) -> None:
        self.name = kind
        self._alone = alone
        self._names = NameType(kind, (*alone, *elements), many=True) if elements else None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and split."""
        if not isinstance(value, str):
            return value
        if value in self._alone:
            return value
        if self._names is None:
            return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        parts = self._names.convert(value, param, ctx)
        if alone := [part for part in parts if part in self._alone]:
            self.fail(
                f"{alone[0]!r} allows no {self.name}, so nothing can be listed with it", param, ctx
            )
        return parts


class _WidthType(NameType):
    """A name, a number of channels, or one for each of some stages."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and convert."""
        if not isinstance(value, str) or value in self._registered or "=" in value:
            return value
        if not (value.isascii() and value.isdigit() and 2 <= int(value) <= 4096):
            names = ", ".join(self._registered)
            self.fail(
                f"{value!r} must be {names}, or a number of channels from 2 to 4096", param, ctx
            )
        return int(value)
