"""Series: the like rows of a folder's runs, in order of time."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """What the points of a series share: what `resnext_bench.compare_runs` requires of two runs,
    and what it matches rows by.
    """

    processor: str
    cores: str
    gpus: str
    model: str
    weights: str
    backend: str
    variant: str
    batch: int
    streams: int
    precision: str
    boundary: str
    cache: str
    threads: int | None


@dataclass(frozen=True)
class Point:
    """A row of one run.

    Attributes:
        file: path of the run, relative to the folder.
        created: when it was made, UTC.
        median_ns: median of its undisturbed rounds.
        low_ns: lower end of the median's interval; None in older files.
        high_ns: upper end.
        artifact: digest of the file that ran; None for a live network.
        packages: versions by distribution.
    """

    file: str
    created: str
    median_ns: float
    low_ns: float | None
    high_ns: float | None
    artifact: str | None
    packages: dict[str, str]


#: A file that is there twice counts once, under its first name.
_ONCE = "name IN (SELECT min(name) FROM files WHERE kind = 'run' GROUP BY sha256)"
_POINTS = f"""
SELECT processor, cores, gpus, model, weights, backend, variant, batch, streams, precision,
    boundary, cache, threads, name, created, median_ns, low_ns, high_ns, artifact, packages
FROM times JOIN runs USING (name) WHERE problem = '' AND {_ONCE}
ORDER BY processor, cores, gpus, model, weights, created, times.rowid
"""


def runs_in(index: sqlite3.Connection) -> int:
    """Number of runs in ``index``."""
    return _count(index, f"SELECT count(*) FROM runs WHERE {_ONCE}")


def rows_left_out(index: sqlite3.Connection) -> int:
    """Number of rows and boundaries that are in no series, because they are not valid."""
    return _count(index, f"SELECT count(*) FROM times WHERE problem <> '' AND {_ONCE}")


def series_of(index: sqlite3.Connection) -> dict[Key, list[Point]]:
    """The series of the runs in ``index``, those of a machine and network together."""
    series: dict[Key, list[Point]] = {}
    for *key, name, created, median, low, high, artifact, packages in index.execute(_POINTS):
        point = Point(name, created, median, low, high, artifact, json.loads(packages))
        series.setdefault(Key(*key), []).append(point)
    for key in [key for key in series if key.threads is None]:
        # As in a comparison, runs from before threads were recorded are like any others, unless
        # these differ among themselves.
        known = [other for other in series if other[:-1] == key[:-1] and other.threads is not None]
        if len(known) == 1:
            series[known[0]] += series.pop(key)
    for points in series.values():
        points.sort(key=lambda point: (point.created, point.file))
    return series


def _count(index: sqlite3.Connection, query: str) -> int:
    return int(index.execute(query).fetchone()[0])
