"""Help texts in sections, and subcommands that are imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import click

from .app import OneLineGroup


class SectionOption(click.Option):
    """An option under a heading of ``--help``.

    Args:
        section: the heading; options without one come last, under "Options".
    """

    def __init__(self, *args: Any, section: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedGroup(OneLineGroup):
    """A group whose help has sections, and whose subcommands are imported when they are called.

    Args:
        lazy: subcommands by name: ``module:attribute``, and the line that ``--help`` shows.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

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
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                name = getattr(parameter, "section", "") or "Options"
                sections.setdefault(name, []).append(record)
        rest = sections.pop("Options", [])
        for name, records in {**sections, "Options": rest}.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(self.lazy.items())])
