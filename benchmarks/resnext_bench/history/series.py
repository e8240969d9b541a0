"""Series: the like rows of a folder's runs, in order of time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
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
#: What the runs of a machine and network share.
_NETWORK = Key._fields[:5]
_RUNS = f"""
SELECT {", ".join(_NETWORK)}, name FROM runs WHERE {_ONCE} ORDER BY created, name
"""
_PROBLEM = """
SELECT problem FROM times WHERE problem <> '' AND name = :name AND backend = :backend
    AND variant = :variant AND batch = :batch AND streams = :streams AND precision = :precision
    AND (threads = :threads OR threads IS NULL OR :threads IS NULL)
ORDER BY boundary = :boundary DESC, cache = :cache DESC LIMIT 1
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


class Absence(NamedTuple):
    """Why the newest run has no time of a series.

    Attributes:
        runs: number of newest runs of its machine and network without one.
        problem: of its row in the newest run; "" if that has no such row.
    """

    runs: int
    problem: str

    def __str__(self) -> str:
        if self.problem:
            return f"not valid in the newest run: {self.problem}"
        return f"not measured in the newest {'run' if self.runs == 1 else f'{self.runs} runs'}"


def absences(
    index: sqlite3.Connection, series: Mapping[Key, Sequence[Point]]
) -> dict[Key, Absence]:
    """The series of which the newest run of their machine and network has no time."""
    runs: dict[tuple[str, ...], list[str]] = {}
    for *network, name in index.execute(_RUNS):
        runs.setdefault(tuple(network), []).append(name)
    missing = {}
    for key, points in series.items():
        names = runs[key.processor, key.cores, key.gpus, key.model, key.weights]
        later = len(names) - 1 - names.index(points[-1].file)
        if later:
            missing[key] = Absence(later, _problem_of(index, names[-1], key))
    return missing


def _problem_of(index: sqlite3.Connection, name: str, key: Key) -> str:
    """What is wrong with the row of ``key`` in the run ``name``; "" if it has none. A row that was
    not measured has no boundary, and its number of threads may be unknown.
    """
    row = index.execute(_PROBLEM, {"name": name, **key._asdict()}).fetchone()
    return str(row[0]) if row else ""


def _count(index: sqlite3.Connection, query: str) -> int:
    return int(index.execute(query).fetchone()[0])
