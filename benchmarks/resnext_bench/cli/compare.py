"""The command ``resnext-bench compare``: a stored run against an earlier one."""

from __future__ import annotations

from pathlib import Path

import click

from resnext.cli.app import SETTINGS, guarded
from resnext.cli.junit import JUnit, junit_option
from resnext.cli.options import COMPARE, OUTPUT, json_option
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import GateFailed
from resnext.storage import check_writable, write_text

from .outputs import check_separate
from .verdicts import exit_on, margin_option, strict_option

_EPILOG = """\b
Examples:
  resnext-bench compare base.json new.json                  exit 1 if a row is SLOWER
  resnext-bench compare base.json new.json --margin 5       ignore changes up to 5 %
  resnext-bench compare cpu1.json cpu2.json --allow-environment   two machines
  resnext-bench compare base.json new.json --json - | jq '.rows[].change.verdict'
Exit code 1: a row is SLOWER or no longer valid; with --strict also CANNOT TELL. 4: the runs cannot
be compared.
"""


@click.command("compare", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@option_of(COMPARE)(
    "--allow-environment",
    is_flag=True,
    help="Compare runs of different machines, numbers of threads, models or weights, too.",
)
@margin_option
@strict_option
@json_option("Write the comparison as JSON")
@option_of(OUTPUT)(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Write the comparison as Markdown.",
)
@guarded
@junit_option("resnext-bench compare")
def compare(
    base: Path,
    new: Path,
    allow_environment: bool,
    margin: float,
    strict: bool,
    json_path: str | None,
    markdown_path: Path | None,
    junit: JUnit,
) -> None:
    """Say for each row of two stored runs whether NEW is faster or slower than BASE.

    The runs were made at different times, and the machine may have changed in between: ab measures
    both sides in turn.
    """
    check_separate(json_path, markdown=markdown_path)
    for target in (json_path, markdown_path):
        check_writable(target)
    from resnext_bench.comparison.report import show
    from resnext_bench.comparison.runs import compare_runs
    from resnext_bench.report.grid import screen

    from .junit import cases_of_comparison

    outcome = compare_runs(base, new, margin=margin, allow_environment=allow_environment)
    if json_path is not None:
        write_text(json_path, outcome.model_dump_json() + "\n")
    if markdown_path is not None:
        write_text(str(markdown_path), outcome.markdown())
    junit.add(cases_of_comparison(outcome, strict=strict), outcome.text())
    show(outcome, screen(to_stderr=json_path == "-"))
    if outcome.lost:
        number = len(outcome.lost)
        rows = "row that is" if number == 1 else "rows that are"
        raise GateFailed(f"{number} {rows} valid in the base run did not pass in the new one")
    exit_on([row.change for row in outcome.rows], strict=strict)
