"""From a folder of stored runs to their history."""

from __future__ import annotations

import math
import sqlite3
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from resnext.errors import BadInput, UsageError
from resnext.timing.change import LEAST_RUNS, MARGIN, Change, Verdict, between_runs, holm
from resnext.timing.intervals import Interval
from resnext_bench.comparison.packages import upgrades

from .index import indexed
from .record import PointRecord, SeriesRecord, StepRecord
from .result import History
from .series import Key, Point, absences, rows_left_out, runs_in, series_of
from .steps import PERMUTATIONS, Step, find_steps

#: Newest runs in which a step counts for the verdict.
WINDOW = 20
#: Only the newest runs of a series are judged: all pairs of them are compared.
MOST_RUNS = 250
#: Permutations for each series, so that Holm's correction leaves a clear step significant.
_FOR_EACH = 40


def read_history(
    folder: Path | str,
    *,
    margin: float = MARGIN,
    window: int = WINDOW,
    note: Callable[[str], None] | None = None,
) -> History:
    """Read the stored runs in a folder, and find the steps in each row's times.

    A series is one row (backend, candidate, batch, threads, streams, precision, boundary and cache)
    of one network on one machine: what `compare_runs` compares. A step is a change point of
    e-divisive at 5 %, with at least four runs on either side. The verdict of a series compares its
    newest level with the level before the window: SLOWER or FASTER if the interval of the ratio is
    beyond the margin, after Holm's correction over all series; CANNOT TELL if the newest run of its
    machine and network has no time of it. An index in the cache folder saves reading files again.

    Args:
        folder: of run files, also in folders inside it; other JSON files are skipped.
        margin: share that counts as no change.
        window: number of newest runs in which a step counts for the verdict; those before are
            accepted.
        note: called with one line if the index could not be used or kept.

    Raises:
        UsageError: ``margin`` is not positive, or ``window`` is below four.
        BadInput: the folder cannot be read, or has no runs.
    """
    if not 0 < margin <= 1:
        raise UsageError(f"`margin` must be above 0 and at most 1, not {margin}")
    if window < LEAST_RUNS:
        raise UsageError(f"`window` must be at least {LEAST_RUNS}, not {window}")
    with indexed(Path(folder), note or (lambda _: None)) as index:
        rows = {key: points[-MOST_RUNS:] for key, points in series_of(index).items()}
        missing = {key: str(each) for key, each in absences(index, rows).items()}
        runs = runs_in(index)
        left_out = rows_left_out(index)
        other = tuple(name for name, _ in _of_kind(index, "other"))
        broken = tuple(problem for _, problem in _of_kind(index, "broken"))
    if not runs:
        raise BadInput(
            f"{folder} has no stored runs"
            + (f"; of {len(broken)} broken ones the first: {broken[0]}" if broken else ""),
            hint="store runs there with `json_path`, or import them",
        )
    permutations = max(PERMUTATIONS, _FOR_EACH * len(rows))
    steps = {
        key: find_steps(_logs(points), permutations=permutations) for key, points in rows.items()
    }
    changes = judged(rows, steps, margin, window)
    return History(
        runs=runs,
        window=window,
        margin=margin,
        series=tuple(
            _series(key, points, steps[key], changes, margin, missing.get(key, ""))
            for key, points in rows.items()
        ),
        left_out=left_out,
        other=other,
        broken=broken,
        unlike=""
        if runs == 1 or any(len(points) > 1 for points in rows.values())
        else _unlike(rows),
    )


def _of_kind(index: sqlite3.Connection, kind: str) -> list[tuple[str, str]]:
    query = "SELECT name, problem FROM files WHERE kind = ? ORDER BY name"
    return index.execute(query, (kind,)).fetchall()


def _unlike(keys: Iterable[Key]) -> str:
    """The first condition in which the series differ."""
    keys = list(keys)
    for name in Key._fields:
        values = list(dict.fromkeys(str(getattr(key, name)) for key in keys))
        if len(values) > 1:
            return f"{name}: {values[0]}, then {values[1]}"
    return "no row is valid"


def _logs(points: Sequence[Point]) -> list[float]:
    return [math.log(point.median_ns) for point in points]


def judged(
    rows: dict[Key, list[Point]], steps: dict[Key, list[Step]], margin: float, window: int
) -> dict[Key, Change | None]:
    """The change of each series with enough runs: of its newest level against the level before the
    first step in the window, corrected for the number of series; None if no step is there.
    """
    changes: dict[Key, Change] = {}
    still = set()
    for key, points in rows.items():
        if len(points) < 2 * LEAST_RUNS:
            continue
        recent = [step for step in steps[key] if step.at >= len(points) - window]
        if recent:
            logs, bounds = _logs(points), [0, *(step.at for step in steps[key]), len(points)]
            before = bounds[bounds.index(recent[0].at) - 1]
            changes[key] = between_runs(
                logs[before : recent[0].at],
                logs[recent[-1].at :],
                max(step.p_value for step in recent),
                margin,
            )
        else:  # one of the tests that the correction counts
            changes[key] = Change("SAME", Interval(1.0, 1.0, 1.0), 1.0, len(points), margin)
            still.add(key)
    corrected = zip(changes, holm(list(changes.values())), strict=True)
    return {key: None if key in still else change for key, change in corrected}


def _series(
    key: Key,
    points: list[Point],
    steps: list[Step],
    changes: dict[Key, Change | None],
    margin: float,
    absent: str,
) -> SeriesRecord:
    change = changes.get(key)
    without: Verdict = "SAME" if key in changes else "CANNOT TELL"
    if absent and (change is None or change.verdict != "SLOWER"):
        change, without = None, "CANNOT TELL"
    gpus = "" if key.gpus == "none" else f"{key.gpus}; "
    logs, bounds = _logs(points), [0, *(step.at for step in steps), len(points)]
    levels = [logs[low:high] for low, high in pairwise(bounds)]
    names = ("backend", "variant", "batch", "threads", "streams", "precision", "boundary", "cache")
    return SeriesRecord(
        machine=f"{gpus}{key.processor}, {key.cores} cores",
        model=key.model,
        weights=key.weights,
        points=tuple(
            PointRecord(
                file=point.file,
                created=point.created,
                median_ns=point.median_ns,
                low_ns=point.low_ns,
                high_ns=point.high_ns,
                artifact_sha256=point.artifact,
            )
            for point in points
        ),
        steps=tuple(
            _step(step, points, before, after, margin)
            for step, (before, after) in zip(steps, pairwise(levels), strict=True)
        ),
        verdict=without if change is None else change.verdict,
        change=change,
        more=max(0, 2 * LEAST_RUNS - len(points)),
        absent=absent,
        **{name: getattr(key, name) for name in names},
    )


def _step(
    step: Step, points: list[Point], before: list[float], after: list[float], margin: float
) -> StepRecord:
    last, first = points[step.at - 1], points[step.at]
    files = {last.artifact, first.artifact}
    return StepRecord(
        index=step.at,
        before_ns=math.exp(statistics.median(before)),
        after_ns=math.exp(statistics.median(after)),
        change=between_runs(before, after, step.p_value, margin),
        packages=upgrades(last.packages, first.packages),
        same_file=None if files == {None} else len(files) == 1,
    )
