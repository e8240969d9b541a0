"""The command ``resnext-bench page``: a stored run, search or bisection as a page."""

from __future__ import annotations

from pathlib import Path

import click

from resnext.cli.app import SETTINGS, guarded
from resnext.cli.sections import SectionedCommand
from resnext.errors import UsageError
from resnext.storage import check_writable, write_text

from .outputs import check_separate, html_option

_EPILOG = """\b
Examples:
  resnext-bench page run.json --html report.html
  resnext-bench page old-run.json --html old.html    runs of earlier versions, too
  resnext-bench page best/tune.json --html tune.html a search of resnext-export tune
  resnext-bench page bisect.json --html blocks.html  of resnext-parity --bisect --json
Sections whose data a run lacks are left out.
"""


@click.command("page", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@html_option("Write the report as a page: one file of HTML, charts included, no network needed.")
@guarded
def page(run: Path, html_path: Path | None) -> None:
    """Write a stored run, as --json wrote it, a search or a bisection as a page of HTML."""
    if html_path is None:
        raise UsageError("`html` is missing: it names the file to write")
    check_separate(str(run), html=html_path)
    check_writable(html_path)
    from resnext_bench.page.bisection import bisection_page, is_bisection
    from resnext_bench.result import read_run
    from resnext_bench.tune.result import is_tuned, read_tuned
    from resnext_export import read_bisection

    if is_bisection(run):
        text = bisection_page(read_bisection(run))
    else:
        text = (read_tuned(run) if is_tuned(run) else read_run(run)).html()
    write_text(str(html_path), text)
