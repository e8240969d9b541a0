"""The stored form of a history."""

from __future__ import annotations

from typing import Literal

from resnext.artifact.specs import Strict
from resnext.runtimes.session import Boundary
from resnext.timing.change import Change
from resnext.timing.cold import Cache
from resnext_bench.comparison.packages import Versions
from resnext_bench.plan import Case


class PointRecord(Strict):
    """A row of one run.

    Attributes:
        file: path of the run, relative to the folder.
        created: when it was made, UTC, ISO 8601.
        median_ns: median of the row.
        low_ns: lower end of the median's 95 % interval; None if it has none.
        high_ns: upper end.
        artifact_sha256: digest of the file that ran; None for a live network.
    """

    file: str
    created: str
    median_ns: float
    low_ns: float | None
    high_ns: float | None
    artifact_sha256: str | None


class StepRecord(Strict):
    """A change point: the level of a series changed between two runs.

    Attributes:
        index: of the first run after it.
        before_ns: median of the runs since the step before, or the first run.
        after_ns: median of the runs until the next step, or the last run.
        change: how much longer the later ones take; the p-value is at least that of the step.
        packages: versions that differ between the last run before and the first one after.
        same_file: whether these two ran the same artifact; None for a live network.
    """

    index: int
    before_ns: float
    after_ns: float
    change: Change
    packages: dict[str, Versions] = {}  # noqa: RUF012  # pydantic copies it
    same_file: bool | None


class SeriesRecord(Strict):
    """The like rows of a folder's runs, in order of time.

    Attributes:
        machine: in one line.
        model: variant, or ``custom``.
        weights: digest, shortened.
        backend: registry name.
        variant: name of the candidate; empty if the runs have only one.
        batch: images in one run.
        threads: CPU threads; None if no run recorded them.
        streams: requests in flight at once.
        precision: requested.
        boundary: what the times enclose.
        cache: hot or cold.
        points: one for each run.
        steps: change points, in order.
        verdict: whether the newest runs are slower than those before the window: SAME if no step
            lies in it.
        change: of the newest runs against those before the window; None if no step lies in it, or
            if there are too few runs.
        more: number of further runs that it takes to look for a step; 0 if there are enough.
        absent: why the newest run of this machine and network has no time of the row: the verdict
            is CANNOT TELL then, unless it is SLOWER; empty if it has one.
    """

    machine: str
    model: str
    weights: str
    backend: str
    variant: str
    batch: int
    threads: int | None
    streams: int
    precision: str
    boundary: Boundary
    cache: Cache
    points: tuple[PointRecord, ...]
    steps: tuple[StepRecord, ...] = ()
    verdict: Literal["FASTER", "SLOWER", "SAME", "CANNOT TELL"]
    change: Change | None = None
    more: int = 0
    absent: str = ""

    def __str__(self) -> str:
        case = Case(self.backend, self.batch, self.variant, self.threads, self.streams)
        return f"{case} {self.precision} {self.boundary}{' cold' * (self.cache == 'cold')}"


class HistoryRecord(Strict):
    """The fields of `resnext_bench.history.result.History`, which documents them."""

    format_version: Literal[1] = 1
    runs: int
    window: int
    margin: float
    series: tuple[SeriesRecord, ...]
    left_out: int = 0
    other: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    unlike: str = ""
