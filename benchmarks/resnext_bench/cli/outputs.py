"""Files that a command writes besides JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from resnext.cli.options import OUTPUT
from resnext.cli.sections import option_of
from resnext.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def html_option(text: str) -> Callable[[F], F]:
    """Add ``--html PATH`` with ``text`` as its help."""
    option: Callable[[F], F] = option_of(OUTPUT)(
        "--html",
        "html_path",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="PATH",
        help=text,
    )
    return option


def check_separate(json_path: str | None, **paths: Path | None) -> None:
    """Check that every output has a file of its own.

    Args:
        json_path: where JSON goes, or None.
        **paths: the others, by option.

    Raises:
        UsageError: one is stdout, or two are the same.
    """
    taken = set() if json_path in (None, "-") else {os.path.realpath(json_path)}
    for name, path in paths.items():
        if path is None:
            continue
        if str(path) == "-":
            raise UsageError(f"`{name}` needs a file; only `json` can go to stdout")
        if (real := os.path.realpath(path)) in taken:
            raise UsageError(f"`{name}` needs a separate file")
        taken.add(real)
