"""The outcome of a cross-check: rounds, the ratio with its interval, and the verdict."""

from __future__ import annotations

import math
import statistics
from typing import Literal

from resnext.artifact.specs import Strict
from resnext.machine.environment import Environment
from resnext.timing.intervals import Interval, signed_rank

#: Largest difference of two tools that agree.
MARGIN = 0.03

Verdict = Literal["AGREE", "DIFFER", "CANNOT TELL"]


class Round(Strict):
    """One visit to each side.

    Attributes:
        ours_ns: nanoseconds of one of our runs, mean over the visit.
        theirs_ns: the same, as the tool reports it.
        disturbances: what disturbed either visit; the round then does not count.
    """

    ours_ns: float
    theirs_ns: float
    disturbances: tuple[str, ...] = ()


class Comparison(Strict):
    """One tool with one hint.

    Attributes:
        tool: its name.
        backend: our runtime.
        boundary: our call that was timed.
        hint: latency or throughput.
        batch: images in one run.
        threads: CPU threads of each side.
        streams: requests in flight.
        told: what the tool reported of its settings.
        rounds: all rounds, disturbed ones included.
        ratio: our time over theirs, Hodges-Lehmann estimate, lower and upper end of the exact 95 %
            interval, over the undisturbed rounds; None below six.
        verdict: whether the tools agree within 3 %.
    """

    tool: str
    backend: str
    boundary: str
    hint: str
    batch: int
    threads: int
    streams: int
    told: dict[str, str]
    rounds: tuple[Round, ...]
    ratio: tuple[float, float, float] | None
    verdict: Verdict

    @property
    def quiet(self) -> list[Round]:
        """The rounds that count."""
        return quiet(self.rounds)


class Crosscheck(Strict):
    """One call of ``resnext-bench crosscheck``.

    Attributes:
        format_version: of this record.
        created: UTC time, ISO 8601.
        artifact_sha256: digest of the file that both sides ran.
        precision: the artifact's.
        environment: machine and software.
        comparisons: one for each tool and hint.
    """

    format_version: Literal[1] = 1
    created: str
    artifact_sha256: str
    precision: str
    environment: Environment
    comparisons: tuple[Comparison, ...]


def quiet(rounds: tuple[Round, ...] | list[Round]) -> list[Round]:
    """The rounds in which neither side was disturbed."""
    return [each for each in rounds if not each.disturbances]


def average(comparison: Comparison) -> tuple[float, float]:
    """Nanoseconds of one run on either side, ours first: medians of the rounds that count, or of
    all if none does.
    """
    rounds = comparison.quiet or comparison.rounds
    return (
        statistics.median(each.ours_ns for each in rounds),
        statistics.median(each.theirs_ns for each in rounds),
    )


def ratio_of(rounds: tuple[Round, ...] | list[Round]) -> Interval | None:
    """Our time over theirs, from the log ratios of the undisturbed rounds."""
    interval = signed_rank([math.log(each.ours_ns / each.theirs_ns) for each in quiet(rounds)])
    return None if interval is None else Interval(*map(math.exp, interval))


def verdict_of(ratio: Interval | None) -> Verdict:
    """The interval inside the margin, outside it, or neither."""
    low, high = 1 / (1 + MARGIN), 1 + MARGIN
    if ratio is not None and low <= ratio.low and ratio.high <= high:
        return "AGREE"
    if ratio is not None and (ratio.high < low or ratio.low > high):
        return "DIFFER"
    return "CANNOT TELL"
