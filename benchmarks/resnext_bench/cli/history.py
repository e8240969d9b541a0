"""The commands ``resnext-bench history`` and ``resnext-bench history gate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from resnext.cli.app import SETTINGS, echo, guarded
from resnext.cli.junit import JUnit, junit_option
from resnext.cli.options import RUN, json_option
from resnext.cli.sections import SectionedCommand, SectionedGroup, option_of
from resnext.errors import BadInput, GateFailed
from resnext.storage import check_writable, write_text

from .outputs import check_separate, html_option
from .verdicts import exit_on, margin_option, strict_option

if TYPE_CHECKING:
    from resnext_bench.history.result import History

F = TypeVar("F", bound=Callable[..., Any])

_EPILOG = """\b
Examples:
  resnext-bench history runs/                               every row over time, with its steps
  resnext-bench history runs/ --import new.json             copy a run into the folder first
  resnext-bench history --import a.json --import b.json     into the user's own folder
  resnext-bench history runs/ --html history.html           charts with intervals and steps
  resnext-bench history runs/ --json - | jq '.series[].steps[].change.ratio'
  resnext-bench history gate runs/                          exit 1 if a row has become slower
Exit code 4: the folder has no runs, or cannot be read.
"""
_GATE_EPILOG = """\b
Examples:
  resnext-bench history gate runs/                          exit 1 if a row has become slower
  resnext-bench history gate runs/ --margin 5 --window 10   by more than 5 %, in the newest 10 runs
  resnext-bench history gate runs/ --junit gate.xml         for CI servers
  resnext-bench history gate runs/ --strict                 too few runs fail, too
Exit code 1: a row is SLOWER; with --strict also CANNOT TELL. 4: no runs, or no two are alike.
"""


class _FolderGroup(SectionedGroup):
    """A group with an argument: the first word is the name of a subcommand, or the argument."""

    allow_extra_args = False
    allow_interspersed_args = True

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **settings: Any
    ) -> click.Context:
        """Parse the options, or have the subcommand parse its own."""
        if args and args[0] in self.lazy:
            command = self.get_command(click.Context(self), args[0])
            assert command is not None
            return command.make_context(f"{info_name} {args[0]}", args[1:], *rest, **settings)
        return super().make_context(info_name, args, *rest, **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options; what is left over is no subcommand."""
        return click.Command.parse_args(self, ctx, args)


class _FolderType(click.Path):
    """A path that is not empty: an unset variable is no name of the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("FOLDER is empty; name a folder, '.' for the current one", param, ctx)
        return super().convert(value, param, ctx)


def _folder_argument(function: F) -> F:
    """Add the argument FOLDER."""
    add: Callable[[F], F] = click.argument(
        "folder", type=_FolderType(path_type=Path), required=False
    )
    return add(function)


@click.group(
    "history",
    cls=_FolderGroup,
    lazy={
        "gate": ("resnext_bench.cli.history:gate", "Exit 1 if a row has become slower."),
    },
    invoke_without_command=True,
    subcommand_metavar="| gate [FOLDER]",
    context_settings=SETTINGS,
    epilog=_EPILOG,
)
@_folder_argument
@option_of(RUN)(
    "--import",
    "imported",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Copy this run into FOLDER first; may be repeated.",
)
@json_option("Write the history as JSON")
@html_option("Write the history as a page: one file of HTML, charts included, no network needed.")
@guarded
def history(
    folder: Path | None,
    imported: tuple[Path, ...],
    json_path: str | None,
    html_path: Path | None,
) -> None:
    """Show every row of the runs in FOLDER over time, and when it became faster or slower.

    FOLDER holds what --json of resnext-bench wrote, also in folders inside it; without it, the
    user's data folder is used. Only runs of one machine, network and number of threads are one
    series.
    """
    from resnext_bench.history.report import show
    from resnext_bench.report.grid import screen

    check_separate(json_path, html=html_path)
    for target in (json_path, html_path):
        check_writable(target)
    kept = folder or _own_folder()
    if imported:
        from resnext_bench.history.imports import import_runs

        for path in import_runs(kept, imported):
            echo(f"imported {path}", err=True)
    outcome = _read(kept)
    if json_path is not None:
        write_text(json_path, outcome.model_dump_json() + "\n")
    if html_path is not None:
        write_text(str(html_path), outcome.html())
    show(outcome, screen(to_stderr=json_path == "-"))


@click.command("gate", cls=SectionedCommand, context_settings=SETTINGS, epilog=_GATE_EPILOG)
@_folder_argument
@option_of("Verdict")(
    "--window",
    type=click.IntRange(min=4),
    default=20,
    show_default=True,
    metavar="N",
    help="Number of newest runs in which a step counts; those before are accepted.",
)
@margin_option
@strict_option
@json_option("Write the history as JSON")
@guarded
@junit_option("resnext-bench history gate")
def gate(
    folder: Path | None,
    window: int,
    margin: float,
    strict: bool,
    json_path: str | None,
    junit: JUnit,
) -> None:
    """Say whether a row of the runs in FOLDER has become slower: whether its newest level is above
    the level before the newest runs.
    """
    check_writable(json_path)
    outcome = _read(folder or _own_folder(), margin=margin, window=window)
    if json_path is not None:
        write_text(json_path, outcome.model_dump_json() + "\n")
    if outcome.unlike:
        raise BadInput(
            f"no two of the {outcome.runs} runs are alike: {outcome.unlike}",
            hint="repeat them on one machine, with the same threads",
        )
    from resnext_bench.history.verdicts import verdicts, worst_verdict
    from resnext_bench.report.grid import say, screen

    from .junit import cases_of_history

    console = screen(to_stderr=json_path == "-")
    lines = verdicts(outcome)
    junit.add(cases_of_history(outcome, strict=strict), "\n".join(lines))
    for line in lines:
        say(line, console)
    exit_on(outcome.series, strict=strict)
    if strict and worst_verdict(outcome) == "CANNOT TELL":
        raise GateFailed("the verdict is CANNOT TELL: what was left out may be the newest run")


def _read(folder: Path, **settings: Any) -> History:
    from resnext_bench.history.read import read_history

    return read_history(folder, note=lambda line: echo(f"note: {line}", err=True), **settings)


def _own_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("resnext-toolkit") / "history"
