"""From two stored runs to a verdict on each of their common rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from resnext.errors import BadInput, GateFailed, UsageError
from resnext.timing.change import MARGIN, Change, holm, unpaired
from resnext.timing.cold import Cache
from resnext_bench.plan import Case
from resnext_bench.record import Row
from resnext_bench.result import Run, read_run
from resnext_bench.stats import Timing

from .packages import upgrades
from .record import LostRow, RowChange
from .result import Comparison


class _Key(NamedTuple):
    """What rows are matched by. ``threads`` is None in a run that does not compare several."""

    backend: str
    variant: str
    batch: int
    threads: int | None
    streams: int
    precision: str
    boundary: str
    cache: Cache

    def __str__(self) -> str:
        case = Case(self.backend, self.batch, self.variant, self.threads, self.streams)
        return f"{case} {self.boundary}{' cold' * (self.cache == 'cold')}"


_Side: TypeAlias = tuple[Row, Timing | None]


def compare_runs(
    base: Run | Path | str,
    new: Run | Path | str,
    *,
    margin: float = MARGIN,
    allow_environment: bool = False,
) -> Comparison:
    """Compare two runs made at different times, row by row.

    A row is one backend, batch size, candidate, precision, boundary and cache. Each of its
    undisturbed rounds counts with its median; the ratio has the interval of the rank-sum test, and
    Holm's correction holds over all rows. The machine may have changed between the runs: `ab` on
    the command line, which measures both sides in turn, is more reliable.

    Args:
        base: a run, or the path of a stored one.
        new: the same.
        margin: share that counts as no change.
        allow_environment: compare runs of different machines, numbers of threads, networks or
            weights, too.

    Returns:
        A verdict for each row that is valid in both runs; those that are valid in the base run
        alone are ``lost``.

    Raises:
        UsageError: ``margin`` is not positive.
        BadInput: a file is no run, the runs are unlike, or they have no row in common.
        GateFailed: none of the common rows is valid in both.
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
    compared, lost, skipped = [], [], []
    for key in dict.fromkeys((*rows, *others)):
        first, second = rows.get(key), others.get(key)
        row = _unmeasured(new, key) if second is None else second[0]
        reason = _not_comparable(first, second)
        if first and not _problem(first) and row is not None and row.status != "valid":
            lost.append(LostRow(name=str(key), status=row.status, reason="".join(row.reasons[:1])))
        elif reason:
            skipped.append(f"{key}: {reason}")
        else:
            compared.append(_row(key, rows[key], others[key], margin))
    if not compared:
        raise GateFailed(
            f"no row is valid in both runs: {[*lost, *skipped][0]}",
            hint="measure again on a quiet machine",
        )
    changes = holm([_believed(row.change, base, new) for row in compared])
    return Comparison(
        base=base.created,
        new=new.created,
        model=base.model,
        machine=base.environment.title(),
        margin=margin,
        unlike=unlike,
        packages=upgrades(base.environment.packages, new.environment.packages),
        rows=tuple(
            row.model_copy(update={"change": change})
            for row, change in zip(compared, changes, strict=True)
        ),
        lost=tuple(lost),
        skipped=tuple(skipped),
        unfinished=tuple(name for name, run in (("base", base), ("new", new)) if not run.complete),
    )


def conditions(run: Run) -> dict[str, str]:
    """What must be equal for the times of two runs to be comparable: machine, network, weights."""
    machine = run.environment
    return {
        "processor": machine.cpu,
        "cores": str(machine.physical_cores),
        "GPUs": ", ".join(gpu.name for gpu in machine.gpus) or "none",
        "model": run.model or "custom",
        "weights": f"sha256 {run.weights.sha256[:12]}",
    }


def _differences(base: Run, new: Run) -> Iterator[str]:
    """What makes times of the two incomparable."""
    others = conditions(new)
    for name, first in conditions(base).items():
        if first != others[name]:
            yield f"{name}: {first}, then {others[name]}"
    if None not in (base.threads, new.threads) and base.threads != new.threads:
        yield f"threads: {base.threads}, then {new.threads}"


def _rows(run: Run) -> dict[_Key, _Side]:
    """Each row and boundary of ``run``; one that was not measured counts as the host's."""
    rows: dict[_Key, _Side] = {}
    for row in run.rows:
        for timing in row.timings or (None,):
            key = _Key(
                row.backend,
                row.variant,
                row.batch,
                row.threads if run.threads is None else None,
                row.streams,
                row.precision or run.precision,  # which older files have for all rows
                "host" if timing is None else timing.boundary,
                "hot" if timing is None else timing.cache,
            )
            rows[key] = (row, timing)
    return rows


def _not_comparable(base: _Side | None, new: _Side | None) -> str:
    """Why a row is not compared; empty if it is."""
    problems = []
    for name, side in (("base", base), ("new", new)):
        if side is None:
            problems.append(f"missing in the {name} run")
        elif problem := _problem(side):
            problems.append(f"{problem} in the {name} run")
    return ", ".join(problems)


def _problem(side: _Side) -> str:
    return side[0].status if side[0].status != "valid" else "" if side[1] else "without a time"


def _unmeasured(run: Run, key: _Key) -> Row | None:
    """The row of ``run`` for ``key`` if it has no times, so that its boundary is unknown."""
    for other, (row, timing) in _rows(run).items():
        if timing is None and other._replace(boundary=key.boundary, cache=key.cache) == key:
            return row
    return None


def _row(key: _Key, base: _Side, new: _Side, margin: float) -> RowChange:
    (first, before), (second, after) = base, new
    assert before is not None
    assert after is not None
    files = {first.artifact_sha256, second.artifact_sha256}
    return RowChange(
        backend=key.backend,
        variant=key.variant,
        batch=key.batch,
        threads=key.threads,
        streams=key.streams,
        precision=key.precision,
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
