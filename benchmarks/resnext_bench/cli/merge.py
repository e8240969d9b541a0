"""The command ``resnext-bench merge``: the runs of a plan as one report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from resnext.cli.app import SETTINGS, as_flags, echo, guarded
from resnext.cli.junit import JUnit, junit_option
from resnext.cli.options import OUTPUT, json_option
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import SessionFailed
from resnext.storage import check_writable, write_text

from .bench import exit_code
from .outputs import check_separate, html_option

_EPILOG = """\b
Examples:
  resnext-bench merge results/                              a table for each kind of machine
  resnext-bench merge results/ --html fleet.html --markdown fleet.md
  resnext-bench merge results/ --json - | jq '.groups[] | select(.status != "MEASURED")'
  resnext-bench page results/3f2a91c0de12.json --html one.html   all charts of one group
Speedups are those within a group: times of two machines are never compared.
Exit code 0: every group was measured, every row is valid. 1: a row is invalid. 3, 4: a row failed;
4 also if a group failed, was lost, or is missing.
"""


@click.command("merge", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("results", type=click.Path(path_type=Path))
@json_option("Write the state of every group, and the verdict of every table, as JSON")
@option_of(OUTPUT)(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Write the report as Markdown.",
)
@html_option("Write the report as a page: one file of HTML, no network needed.")
@guarded
@junit_option("resnext-bench merge")
def merge(
    results: Path,
    json_path: str | None,
    markdown_path: Path | None,
    html_path: Path | None,
    junit: JUnit,
) -> None:
    """Show the runs of a plan in the folder RESULTS: a table for each kind of machine, and every
    group that failed, was lost, or is missing.
    """
    check_separate(json_path, markdown=markdown_path, html=html_path)
    for target in (json_path, markdown_path, html_path):
        check_writable(target)
    from resnext_bench.fleet.merged import merge as merge_results
    from resnext_bench.fleet.report import markdown, page, show, state, summary
    from resnext_bench.fleet.results import Results
    from resnext_bench.report.grid import screen

    from .junit import cases_of_merged

    merged = merge_results(Results.read(results))
    if json_path is not None:
        write_text(json_path, json.dumps(state(merged), indent=1) + "\n")
    if markdown_path is not None:
        write_text(str(markdown_path), markdown(merged))
    if html_path is not None:
        write_text(str(html_path), page(merged))
    junit.add(cases_of_merged(merged), summary(merged))
    show(merged, screen(to_stderr=json_path == "-"), spell=as_flags)
    codes = [exit_code(run) for run in merged.tables]
    if merged.absent:
        echo(f"error: {len(merged.absent)} of {len(merged.standings)} groups have no run", err=True)
        codes.append(SessionFailed.exit_code)
    if code := 1 if 1 in codes else max(codes, default=0):
        sys.exit(code)
