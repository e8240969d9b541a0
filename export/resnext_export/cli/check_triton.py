"""The command ``resnext-export check-triton``: would Triton serve a repository, and rightly?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resnext.cli.app import SETTINGS, echo, guarded, printable
from resnext.cli.options import json_option
from resnext.cli.sections import SectionedCommand
from resnext.errors import GateFailed
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext_export.triton.rules import Checked

_EPILOG = """\b
Examples:
  resnext-export check-triton models/
  resnext-export check-triton models/ --json findings.json
Exit code 0: nothing speaks against it. 1: the table says what does, with file and line.
"""


@click.command("check-triton", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("repository", type=click.Path(path_type=Path), metavar="REPO")
@json_option("Write the findings as JSON")
@guarded
def check_triton(repository: Path, json_path: str | None) -> None:
    """Check a model repository of Triton's: configurations, files, batches, warm-up, ensembles.

    Also what the server refuses without a line, and what it serves in silence. Repositories that
    others wrote are checked as far as their files say what is in them.
    """
    check_writable(json_path)
    from resnext_export.triton.rules import check_repository

    checked = check_repository(repository)
    if json_path is not None:
        write_text(json_path, json.dumps(_facts(repository, checked), indent=2) + "\n")
    if json_path != "-":
        _print(repository, checked)
    if checked.refused:
        first = checked.refused[0]
        raise GateFailed(
            f"{repository} has {len(checked.refused)} faults; {first.where}: {first.message}",
            hint=first.hint,
        )


def _print(repository: Path, checked: Checked) -> None:
    if checked.findings:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("finding", "code", "where"):
            table.add_column(heading, no_wrap=True)
        table.add_column("what, and what to do", overflow="fold")
        for finding in checked.findings:
            color = "red" if finding.severity == "refused" else "yellow"
            severity = Text(finding.severity, style=color)
            cells = (finding.code, finding.where, str(finding))
            table.add_row(severity, *map(printable, cells))
        # File names may look like rich's markup.
        width = None if Console().is_terminal else 200
        Console(highlight=False, markup=False, emoji=False, width=width).print(table)
    for line in checked.unchecked:
        echo(f"unchecked {line}")
    if not checked.refused:
        echo(f"accepted  {repository}: {', '.join(checked.models)}")


def _facts(repository: Path, checked: Checked) -> dict[str, Any]:
    return {
        "repository": str(repository),
        "accepted": not checked.refused,
        "models": list(checked.models),
        "findings": [asdict(finding) for finding in checked.findings],
        "unchecked": list(checked.unchecked),
    }
