"""The command ``resnext-export check-triton``: would Triton serve a repository, and rightly?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resnext.cli.app import SETTINGS, as_flags, echo, guarded, printable
from resnext.cli.options import json_option
from resnext.cli.params import NameType
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import GateFailed, UsageError
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext_export.triton.network_exam import Examined
    from resnext_export.triton.rules import Checked

_EPILOG = """\b
Examples:
  resnext-export check-triton models/
  resnext-export check-triton models/ --server required --json findings.json
  resnext-export check-triton models/ --url grpc://triton.example:8001
Exit code 0: nothing speaks against it. 1: the table says what does, with file and line.
"""
_SERVER = ("auto", "required", "off")
_server = option_of("Server")


@click.command("check-triton", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("repository", type=click.Path(path_type=Path), metavar="REPO")
@_server(
    "--server",
    "server",
    type=NameType("server", _SERVER),
    default="auto",
    show_default=True,
    metavar="|".join(_SERVER),
    help="Load the repository into a Triton server on this machine, and hold what it answers"
    " against PyTorch: if there is one, in any case, or not. Models that bring code of others are"
    " loaded with required only.",
)
@_server("--url", metavar="URL", help="Server that has loaded it: http|https|grpc://HOST:PORT.")
@json_option("Write the findings as JSON")
@guarded
def check_triton(repository: Path, server: str, url: str | None, json_path: str | None) -> None:
    """Check a model repository of Triton's: configurations, files, batches, warm-up, ensembles.

    Also what the server refuses without a line, and what it serves in silence. Repositories that
    others wrote are checked as far as their files say what is in them.

    If there is a server (make triton-env makes one), it loads the repository. Its logits are
    compared with PyTorch's at batch sizes up to 16, at the largest, and under mixed requests, its
    configuration with the files; wrong requests must be refused.
    """
    if url is not None and server != "auto":
        raise UsageError(f"--url names the server, so --server {server} has no effect")
    check_writable(json_path)
    from resnext_export.triton.rules import check_repository

    checked = check_repository(repository)
    seen: tuple[str, ...] = ()
    if server != "off" or url is not None:
        examined = _examined(repository, server, url, faulty=bool(checked.refused))
        seen = tuple(examined.lines)
        checked = replace(
            checked,
            findings=(*checked.findings, *examined.findings),
            unchecked=(*checked.unchecked, *examined.unchecked),
        )
    if json_path is not None:
        facts = _facts(repository, checked) | {"seen": list(seen)}
        write_text(json_path, json.dumps(facts, indent=2) + "\n")
    if json_path != "-":
        _print(repository, checked, seen)
    if checked.refused:
        first = checked.refused[0]
        count = len(checked.refused)
        where = f"{first.where}: " if first.where else ""
        raise GateFailed(
            f"{repository} has {count} fault{'s' * (count > 1)}; {where}{first.message}",
            hint=first.hint,
        )


def _examined(repository: Path, server: str, url: str | None, *, faulty: bool) -> Examined:
    """What a server showed, or why none was asked."""
    from resnext_export.triton.environment import HOW, find_server, required_server
    from resnext_export.triton.exam import examine_here, examine_there
    from resnext_export.triton.network_exam import Examined

    installation = None
    if url is None:
        installation = required_server() if server == "required" else find_server()
    if url is None and installation is None:
        return Examined(unchecked=[f"on a server: there is no Triton server here; {HOW}"])
    if faulty:
        return Examined(unchecked=["on a server: mend the faults above first"])

    def say(line: str) -> None:
        echo(line, err=True)

    if url is not None:
        return examine_there(repository, url, say)
    assert installation is not None
    return examine_here(repository, installation, say, code=server == "required")


def _print(repository: Path, checked: Checked, seen: Sequence[str]) -> None:
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
    for line in seen:
        echo(f"seen      {line}")
    for line in checked.unchecked:
        echo(f"unchecked {as_flags(line)}")
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
