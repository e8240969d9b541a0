"""Commands with help texts in sections and usage errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, cast

import click

from .app import parsing, refuse

#: Heading of the options without a section; it comes last.
_REST = "Options"
#: Key of a context's ``meta``: the arguments as they were typed.
_TYPED = "resnext.typed"


class SectionOption(click.Option):
    """An option under a heading of ``--help``.

    Args:
        section: the heading; options without one come last, under "Options".
    """

    def __init__(self, *args: Any, section: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def option_of(section: str) -> Callable[..., Callable[[Any], Any]]:
    """`click.option`, for the options under one heading."""
    return partial(click.option, cls=SectionOption, section=section)


class Remembering(click.Command):
    """A command that knows how it was typed (`typed`)."""

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **kwargs: Any
    ) -> click.Context:
        """Parse the options, which takes them out of ``args``."""
        words = tuple(args)
        ctx = super().make_context(info_name, args, *rest, **kwargs)
        ctx.meta[_TYPED] = words
        return ctx


def typed(ctx: click.Context) -> tuple[str, ...]:
    """The arguments of a `Remembering` command."""
    words: tuple[str, ...] = ctx.meta[_TYPED]
    return words


class SectionedCommand(click.Command):
    """A command whose help has sections."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options; an error is one line, like every other."""
        with parsing():
            return super().make_context(*args, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of one section together."""
        _write_options(self.get_params(ctx), ctx, formatter)


class SectionedGroup(click.Group):
    """A group whose help has sections, and whose subcommands are imported when they are called.

    Args:
        lazy: subcommands by name: ``module:attribute``, and the line that ``--help`` shows.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options; an error is one line, like every other."""
        with parsing():
            return super().make_context(*args, **kwargs)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the subcommand; an unknown name is one line, too."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            refuse(exc)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of one section together, then the subcommands."""
        _write_options(self.get_params(ctx), ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(self.lazy.items())])


def runs_subcommand(ctx: click.Context) -> bool:
    """Whether a subcommand follows, so that the group has nothing to do itself.

    Raises:
        click.UsageError: there are options before its name; it has its own.
    """
    if ctx.invoked_subcommand is None:
        return False
    typed = click.core.ParameterSource.COMMANDLINE
    if any(ctx.get_parameter_source(name) is typed for name in ctx.params):
        raise click.UsageError(f"options go after {ctx.invoked_subcommand}, and it has its own")
    return True


def _write_options(
    parameters: list[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            name = getattr(parameter, "section", "") or _REST
            sections.setdefault(name, []).append(record)
    rest = sections.pop(_REST, [])
    for name, records in {**sections, _REST: rest}.items():
        if records:
            with formatter.section(name):
                formatter.write_dl(records)
