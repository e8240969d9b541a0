"""The command ``resnext-export doctor``: what works on this machine, and how to mend the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from resnext.cli.app import SETTINGS, as_flags, guarded, printable
from resnext.cli.options import json_option
from resnext.cli.sections import SectionedCommand
from resnext.errors import MissingRequirement
from resnext.progress import working
from resnext.storage import check_writable, write_text
from resnext.version import __version__

if TYPE_CHECKING:
    from resnext_export.doctor.observation import Observation

_EPILOG = """\b
Examples:
  resnext-export doctor                         runs every runtime; takes about a minute
  resnext-export doctor --json doctor.json      the same for scripts, and for a bug report
Exit code 0: everything that is installed works. 3: something cannot; each line says what mends it.
What this machine does not have ("not here"), for example a GPU, is no fault.
"""


@click.command("doctor", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@json_option("Write all lines as JSON")
@guarded
def doctor(json_path: str | None) -> None:
    """Show what works on this machine, what does not, why, and the line that mends it.

    Folders, compilers and runtimes are judged by using them: each runtime runs the shipped digits
    network, in a separate process. Nothing is sent anywhere.
    """
    check_writable(json_path)
    from resnext_export.doctor.checkup import CHECKS, checkup

    lines: list[tuple[str, Observation]] = []
    area = ""
    for name, observations in checkup():
        if json_path != "-" and CHECKS[name].area != area:
            click.echo(f"{chr(10) if area else ''}{CHECKS[name].area}")
            area = CHECKS[name].area
        for each in _with_spinner(name, observations):
            lines.append((name, each))
            if json_path != "-":
                _print(name, each)
    if json_path is not None:
        write_text(json_path, json.dumps(_facts(lines), indent=2) + "\n")
    problems = [each for _, each in lines if each.status == "problem"]
    if json_path != "-":
        click.echo(f"\n{_summary([each for _, each in lines])}")
    if problems:
        first = problems[0]
        raise MissingRequirement(
            f"not everything that is installed works: {first.message}", hint=first.hint
        )


def _with_spinner(name: str, observations: Iterator[Observation]) -> Iterator[Observation]:
    while True:
        with working(f"checking: {name}"):
            each = next(observations, None)
        if each is None:
            return
        yield each


def _print(name: str, each: Observation) -> None:
    colors = {"ok": "green", "warning": "yellow", "problem": "red"}
    status = click.style(f"{each.status:9}", fg=colors.get(each.status), bold=each.status != "ok")
    click.echo(f"  {status} {name:14} {printable(as_flags(each.message))}")
    if each.hint:
        click.echo(f"  {'':9} {'':14} -> {printable(as_flags(each.hint))}")


def _summary(observations: list[Observation]) -> str:
    from resnext_export.doctor.observation import STATUSES

    counts = Counter(each.status for each in observations)
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES)


def _facts(lines: list[tuple[str, Observation]]) -> dict[str, object]:
    from resnext_export.doctor.checkup import CHECKS

    return {
        "toolkit": __version__,
        "works": all(each.status != "problem" for _, each in lines),
        "lines": [
            {
                "area": CHECKS[name].area,
                "check": name,
                "status": each.status,
                "code": each.code,
                "message": as_flags(each.message),
                "hint": as_flags(each.hint),
            }
            for name, each in lines
        ],
    }
