"""What the index keeps of one file: a run's conditions and times, or why it has none."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from resnext.errors import BadInput
from resnext.readers.files import MOST_JSON, read_file
from resnext.readers.strict_json import parse_json
from resnext_bench.comparison.runs import conditions
from resnext_bench.record import Row
from resnext_bench.result import FORMAT_VERSION, Run, read_run
from resnext_bench.stats import Timing

#: ``other``: JSON, but no run at all; ``broken``: neither.
Kind: TypeAlias = Literal["run", "other", "broken"]
#: What a run has, and little else.
_OF_A_RUN = {"created", "environment", "rows", "weights"}


class Entry(NamedTuple):
    """One file.

    Attributes:
        kind: of it.
        problem: why it is not used; "" for a run.
        run: values of the table of runs, without the file's name; empty unless it is one.
        times: values of the table of times, without the file's name.
    """

    kind: Kind
    problem: str = ""
    run: tuple[Any, ...] = ()
    times: tuple[tuple[Any, ...], ...] = ()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of at most the size of a run.

    Raises:
        BadInput: it cannot be read.
    """
    return hashlib.sha256(read_file(path, MOST_JSON)).hexdigest()


def read_entry(path: Path) -> Entry:
    """Read a file that may be a run."""
    try:
        run = read_run(path)
        return Entry("run", "", _run(run), tuple(_times(run)))
    except BadInput as exc:
        return Entry("other" if _is_other(path) else "broken", str(exc))
    except (ValueError, OverflowError) as exc:
        return Entry("broken", f"{path} is not a stored run: {exc}")


def _is_other(path: Path) -> bool:
    """Whether a file that is no run is not meant to be one."""
    try:
        value = parse_json(read_file(path, MOST_JSON))
    except (BadInput, ValueError):
        return False
    if not isinstance(value, dict):
        return True
    version = value.get("format_version")
    newer = type(version) is int and version > FORMAT_VERSION and "rows" in value
    return not newer and not value.keys() >= _OF_A_RUN


def _run(run: Run) -> tuple[Any, ...]:
    return (
        _utc(run.created),
        *conditions(run).values(),
        json.dumps(run.environment.packages, sort_keys=True),
    )


def _utc(created: str) -> str:
    """``created`` in a form that sorts by time.

    Raises:
        ValueError: it is no time.
        OverflowError: it is outside the calendar.
    """
    moment = datetime.datetime.fromisoformat(created.removesuffix("Z"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.astimezone(datetime.timezone.utc).isoformat(timespec="microseconds")


def _times(run: Run) -> Iterator[tuple[Any, ...]]:
    for row in run.rows:
        for timing in row.timings or (None,):
            stats = None if timing is None else timing.stats
            yield (
                row.backend,
                row.variant,
                _integer(row.batch),
                _integer(row.threads if run.threads is None else run.threads),
                _integer(row.streams),
                row.precision or run.precision,  # which older files have for all rows
                "host" if timing is None else timing.boundary,
                "hot" if timing is None else timing.cache,
                row.artifact_sha256,
                None if stats is None else stats.median_ns,
                None if stats is None else stats.median_low_ns,
                None if stats is None else stats.median_high_ns,
                _problem(row, timing),
            )


def _problem(row: Row, timing: Timing | None) -> str:
    """Why a row is left out; empty if it is not."""
    if row.status != "valid":
        return ": ".join((row.status, *row.reasons[:1]))
    if timing is None:
        return "without a time"
    if not timing.quiet_ns:
        return "disturbed in every round"
    median = timing.stats.median_ns
    return "" if math.isfinite(median) and median > 0 else "without a time"


def _integer(number: int | None) -> int | None:
    """``number``, if SQLite can hold it.

    Raises:
        OverflowError: it cannot.
    """
    if number is not None and abs(number) >= 1 << 63:
        raise OverflowError(f"{number:.3g} is too large for a number")
    return number
