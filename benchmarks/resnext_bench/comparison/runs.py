"""From two stored runs to a verdict on each of their common rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from resnext.errors import BadInput, UsageError
from resnext.timing.change import MARGIN, Change, holm, unpaired
from resnext_bench.record import Row
from resnext_bench.result import Run, read_run
from resnext_bench.stats import Timing

from .record import Comparison, RowChange

_Key: TypeAlias = tuple[str, int, str, str, str]
_Rows: TypeAlias = dict[_Key, tuple[Row, Timing | None]]


def compare_runs(
    base: Run | Path | str,
    new: Run | Path | str,
    *,
    margin: float = MARGIN,
    allow_environment: bool = False,
) -> Comparison:
    """Compare two runs made at different times, row by row.

    A row is one backend, batch size, candidate, precision and boundary. Each of its undisturbed
    rounds counts with its median; the ratio has the interval of the rank-sum test, and Holm's
    correction holds over all rows. The machine may have changed between the runs: `ab` on the
    command line, which measures both sides in turn, is more reliable.

    Args:
        base: a run, or the path of a stored one.
        new: the same.
        margin: share that counts as no change.
        allow_environment: compare runs of different machines, numbers of threads, networks or
            weights, too.

    Returns:
        A verdict for each row that is valid in both runs.

    Raises:
        UsageError: ``margin`` is not positive.
        BadInput: a file is no run, the runs are unlike, or they have no row in common.
    """
    if not 0 < margin <= 1:
        raise UsageError(f"`margin` must be above 0 and at most 1, not {margin}")
    base, new = (each if isinstance(each, Run) else read_run(Path(each)) for each in (base, new))
    unlike = tuple(_differences(base, new))
    if unlike and not allow_environment:
        raise BadInput(
            f"the runs are unlike: {'; '.join(unlike)}",
            hint="repeat one under the other's conditions, or set `allow_environment`",
        )
    rows, others = _rows(base), _rows(new)
    if not rows.keys() & others.keys():
        raise BadInput("the runs have no row in common", hint="measure the same backends and sizes")
    compared, skipped = [], []
    for key in dict.fromkeys((*rows, *others)):
        reason = _not_comparable(rows.get(key), others.get(key))
        if reason:
            skipped.append(f"{_name(key)}: {reason}")
        else:
            compared.append(_row(rows[key], others[key], margin))
    changes = holm([_believed(row.change, base, new) for row in compared])
    versions = (base.environment.packages, new.environment.packages)
    return Comparison(
        base=base.created,
        new=new.created,
        model=base.model,
        machine=base.environment.title(),
        margin=margin,
        unlike=unlike,
        packages={
            name: (versions[0].get(name), versions[1].get(name))
            for name in sorted({*versions[0], *versions[1]})
            if versions[0].get(name) != versions[1].get(name)
        },
        rows=tuple(
            row.model_copy(update={"change": change})
            for row, change in zip(compared, changes, strict=True)
        ),
        skipped=tuple(skipped),
    )


def _differences(base: Run, new: Run) -> Iterator[str]:
    """What makes times of the two incomparable."""
    machines = base.environment, new.environment
    for name, first, second in (
        ("processor", *(machine.cpu for machine in machines)),
        ("cores", *(str(machine.physical_cores) for machine in machines)),
        ("GPUs", *(", ".join(gpu.name for gpu in each.gpus) or "none" for each in machines)),
        ("threads", *(str(run.threads or "default") for run in (base, new))),
        ("model", *(run.model or "custom" for run in (base, new))),
        ("weights", *(f"sha256 {run.weights.sha256[:12]}" for run in (base, new))),
    ):
        if first != second:
            yield f"{name}: {first}, then {second}"


def _rows(run: Run) -> _Rows:
    """Each row and boundary of ``run``; one that was not measured counts as the host's."""
    rows: _Rows = {}
    for row in run.rows:
        precision = row.precision or run.precision  # which older files have for all rows
        for timing in row.timings or (None,):
            boundary = "host" if timing is None else timing.boundary
            rows[row.backend, row.batch, row.variant, precision, boundary] = (row, timing)
    return rows


def _name(key: _Key) -> str:
    backend, batch, variant, _, boundary = key
    return f"{' '.join(filter(None, (backend, variant)))} batch {batch} {boundary}"


def _not_comparable(
    base: tuple[Row, Timing | None] | None, new: tuple[Row, Timing | None] | None
) -> str:
    """Why a row is not compared; empty if it is."""
    problems = []
    for name, side in (("base", base), ("new", new)):
        if side is None:
            problems.append(f"missing in the {name} run")
        elif side[0].status != "valid" or side[1] is None:
            problems.append(f"{side[0].status} in the {name} run")
    if not problems and base is not None and new is not None:
        threads = [side[0].notes.get("threads") for side in (base, new)]
        if threads[0] != threads[1]:
            problems.append(f"{threads[0] or 'unknown'} threads, then {threads[1] or 'unknown'}")
    return ", ".join(problems)


def _row(
    base: tuple[Row, Timing | None], new: tuple[Row, Timing | None], margin: float
) -> RowChange:
    (first, before), (second, after) = base, new
    assert before is not None
    assert after is not None
    files = {first.artifact_sha256, second.artifact_sha256}
    return RowChange(
        backend=first.backend,
        batch=first.batch,
        variant=first.variant,
        precision=first.precision,
        boundary=before.boundary,
        base_ns=before.stats.median_ns,
        new_ns=after.stats.median_ns,
        rounds=(len(before.quiet_ns), len(after.quiet_ns)),
        same_file=None if files == {None} else len(files) == 1,
        change=unpaired(_log_medians(before), _log_medians(after), margin),
    )


def _log_medians(timing: Timing) -> list[float]:
    """The logarithm of each undisturbed round's median."""
    return [math.log(max(1.0, statistics.median(each))) for each in timing.quiet_ns.values()]


def _believed(change: Change, base: Run, new: Run) -> Change:
    """``change``, without a verdict if the A/A control of a run is above its noise floor."""
    loud = [
        name
        for name, run in (("base", base), ("new", new))
        if run.control is not None and not run.control.quiet
    ]
    if not loud or change.verdict == "CANNOT TELL":
        return change
    reason = f"the A/A control of the {' and the '.join(loud)} run is too noisy"
    return replace(change, verdict="CANNOT TELL", more=None, reason=reason)
