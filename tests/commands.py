"""Every command of the product, for tests of all of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click

MODULES = (
    "resnext.cli.parity",
    "resnext.cli.batch",
    "resnext.cli.classify",
    "resnext_export.cli.export",
    "resnext_bench.cli.bench",
)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, with its words."""
    for module in MODULES:
        main: click.Command = importlib.import_module(module).main
        found = [(module, main)]
        while found:
            name, command = found.pop()
            yield name, command
            if isinstance(command, click.Group):
                context = click.Context(command)
                for word in command.list_commands(context):
                    inner = command.get_command(context, word)
                    assert inner is not None
                    found.append((f"{name} {word}", inner))


COMMANDS = dict(commands())
