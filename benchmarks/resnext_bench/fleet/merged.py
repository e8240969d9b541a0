"""The results of a plan, put together: a table for each kind of machine, and what is not there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from resnext.artifact.specs import Strict
from resnext.errors import BadInput
from resnext_bench.comparison.runs import conditions
from resnext_bench.control import Control
from resnext_bench.result import Run

from .placement import kind_of
from .results import Results


class Standing(Strict):
    """What became of a group, or of its part for one kind of machine.

    Attributes:
        name: id of the group, and the kind of machine if it is measured on each.
        title: of the group.
        status: ``MEASURED``, ``FAILED``, ``LOST``, or ``missing``: nobody ran it yet.
        machine: what measured it; "" for nothing.
        reason: why there is no run.
    """

    name: str
    title: str
    status: Literal["MEASURED", "FAILED", "LOST", "missing"]
    machine: str = ""
    reason: str = ""


class Merged:
    """All results of a plan.

    Attributes:
        tables: for each kind of machine, and each set of conditions there, the rows of its runs.
        standings: every group, in the order of the plan.
    """

    def __init__(self, tables: Sequence[Run], standings: Sequence[Standing]) -> None:
        self.tables = tuple(tables)
        self.standings = tuple(standings)

    def apart(self, table: Run) -> str:
        """What only some of the tables of its machine have, in one line: packages by version."""
        title = table.environment.title()
        alike = [run for run in self.tables if run.environment.title() == title]
        common = set.intersection(*(set(run.environment.packages.items()) for run in alike))
        own = sorted(set(table.environment.packages.items()) - common)
        return ", ".join(f"{name} {version}" for name, version in own)

    @property
    def absent(self) -> list[Standing]:
        """The groups without a run."""
        return [standing for standing in self.standings if standing.status != "MEASURED"]


def merge(results: Results) -> Merged:
    """Put the results of a plan together.

    Raises:
        BadInput: a file cannot be read, or two runs of one machine have rows that would be
            compared, although they were not measured together.
    """
    alike: dict[tuple[object, ...], list[Run]] = {}
    standings: list[Standing] = []
    for group in results.plan.groups:
        before = len(standings)
        for name, run in results.runs(group):
            alike.setdefault(_conditions(run), []).append(run)
            machine = run.environment.title()
            standings.append(
                Standing(name=name, title=group.title, status="MEASURED", machine=machine)
            )
        for loss in results.losses(group):
            standings.append(
                Standing(name=loss.name, title=group.title, status=loss.status, reason=loss.reason)
            )
        if len(standings) == before:
            standings.append(Standing(name=group.id, title=group.title, status="missing"))
    return Merged([one_run(runs) for runs in alike.values()], standings)


def one_run(runs: Sequence[Run]) -> Run:
    """The rows of runs under equal conditions, as one run. Speedups stay those of each run.

    Raises:
        BadInput: the runs are of different machines, networks or packages, or have a setting (batch
            size, threads, streams) in common, whose rows nobody measured together.
    """
    first = runs[0]
    for run in runs[1:]:
        if _conditions(run) != _conditions(first):
            raise BadInput(
                f"runs of {first.environment.title()} and of {run.environment.title()} cannot be"
                " one table: machine, network, threads or packages differ"
            )
    settings = [{(row.batch, row.threads, row.streams) for row in run.rows} for run in runs]
    if len(set().union(*settings)) < sum(map(len, settings)):
        raise BadInput(
            f"two runs of {first.environment.title()} have the same batch size; rows are compared"
            " only if they were measured together",
            hint="plan them as one group",
        )
    controls = [run.control for run in runs if run.control is not None]
    early = [run.ended for run in runs if run.ended in ("interrupted", "time")]
    return first.model_copy(
        update={
            "rows": tuple(row for run in runs for row in run.rows),
            "created": min(run.created for run in runs),
            "complete": all(run.complete for run in runs),
            "ended": early[0] if early else first.ended,
            # The noisiest speaks for all.
            "control": max(controls, key=_noise, default=None),
            "reused": tuple(dict.fromkeys(name for run in runs for name in run.reused)),
            "command": (),
        }
    )


def _noise(control: Control) -> float:
    return math.inf if control.noise_floor is None else control.noise_floor


def _conditions(run: Run) -> tuple[object, ...]:
    return (
        kind_of(run.environment),
        *conditions(run).values(),
        run.threads,
        *sorted(run.environment.packages.items()),
    )
