"""The command ``resnext-bench run-cells``: groups of a plan, here or on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from resnext.cli.app import SETTINGS, as_flags, echo, guarded
from resnext.cli.options import OUTPUT, RUN
from resnext.cli.params import MinutesType
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import SessionFailed, UsageError
from resnext.progress import steps
from resnext.storage import check_writable

_EPILOG = """\b
Examples:
  resnext-bench run-cells plan.json --into results/         all groups, here, one after the other
  resnext-bench run-cells plan.json --into results/ --only 3f2a
  resnext-bench run-cells plan.json --into results/ --index $SLURM_ARRAY_TASK_ID
  resnext-bench run-cells plan.json --into results/ --ray 10.0.0.5:6379
  resnext-bench merge results/
Each group runs in a fresh process of resnext-bench and is written when it is done; the same command
again goes on where it stopped, and tries again what failed. A lost machine's group goes to another
one, three times.
Exit code 0: every group has a run. 4: one failed or was lost. merge judges the rows.
"""


@click.command("run-cells", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("plan", type=click.Path(path_type=Path))
@option_of(RUN)(
    "--only",
    multiple=True,
    metavar="ID",
    help="Run this group; the first digits do. May be repeated.  [default: all groups]",
)
@option_of(RUN)(
    "--index",
    type=click.IntRange(min=0),
    metavar="N",
    help="Run the group of this number, from 0: $SLURM_ARRAY_TASK_ID, $JOB_COMPLETION_INDEX.",
)
@option_of(RUN)(
    "--ray",
    metavar="HOST:PORT|auto",
    help="Run on the machines of a Ray cluster, one group at a time on each.",
)
@option_of(RUN)(
    "--patience",
    type=MinutesType(),
    default="30",
    show_default=True,
    metavar="MINUTES",
    help="Silence after which a group counts as hung: it is ended and tried again.",
)
@option_of(OUTPUT)(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder for the runs, also of several machines and of other calls with the same plan.",
)
@guarded
def run_cells(
    plan: Path,
    only: tuple[str, ...],
    index: int | None,
    ray: str | None,
    patience: float,
    into: Path | None,
) -> None:
    """Measure the groups of PLAN, which resnext-bench plan wrote."""
    if into is None:
        raise UsageError("`into` is missing: it names the folder of the runs")
    if only and index is not None:
        raise UsageError("`only` and `index` both say which group", hint="give one of them")
    if not into.is_dir():
        check_writable(into)
    from resnext_bench.fleet.plan_file import read_plan
    from resnext_bench.fleet.results import Results
    from resnext_bench.fleet.running import crew_here, crew_of_ray, run_groups

    planned = read_plan(plan)
    groups = [planned.group(id) for id in only] or list(planned.groups)
    if index is not None:
        groups = [planned.at(index)]
    results = Results.begin(into, planned)
    with steps("starting") as say:
        crew = crew_here(planned) if ray is None else crew_of_ray(planned, ray, say)
        with crew as (workers, machines):
            losses = run_groups(
                results, groups, workers, machines, patience_s=60 * patience, say=say
            )
    for loss in losses:
        echo(f"{loss.status} {loss.name}: {as_flags(loss.reason)}", err=True)
    without = f", {len(losses)} of them without a run" if losses else ""
    echo(f"{len(groups)} of {len(planned.groups)} groups done{without}: {into}", err=True)
    if losses:
        sys.exit(SessionFailed.exit_code)
