"""The stored form of a row under load."""

from __future__ import annotations

import math
import statistics
from typing import Literal

from resnext.artifact.specs import Strict
from resnext.timing.requests import Answers
from resnext_bench.stats import CONFIDENCE, LEAST_SAMPLES, droppable, percentile_bound

#: Latencies that a probe stores; of more, evenly spaced ones in the order of arrival.
MOST_STORED = 10_000
#: Workers that are busy for more than this share of the time, with a queue longer than this share
#: of all requests at the end, cannot serve the rate.
_SATURATED, _GROWN = 0.97, 0.02
#: Standard errors by which the mean time of a call may be too long: 99 %, one-sided.
_ERRORS = 2.33
#: Largest number of further requests worth suggesting.
_MOST_MORE = 1_000_000

SloVerdict = Literal["met", "missed", "cannot tell"]


class Probe(Strict):
    """One load of constant strength. A request is one run of the row's batch.

    Attributes:
        offered_per_s: requests a second that arrived, of an open loop; None for a closed one.
        clients: requests in flight, of a closed loop; None for an open one.
        workers: requests that the session runs at once; others wait.
        answered_per_s: answers a second, until the last arrival.
        images_per_s: the same in images.
        requests: answered requests.
        dropped: requests that met a full queue.
        waiting: requests in the queue at the last arrival.
        busy: share of the workers' time in which they worked.
        latency_ns: nanoseconds from the planned arrival to the answer, in the order of arrival; of
            more than 10,000, evenly spaced ones.
        p50_ns: median of all requests.
        p90_ns: with 99 % confidence, 90 % of requests take no longer; None below 64 requests.
        p99_ns: the same for 99 %; None below 662 requests.
        max_ns: slowest.
        over_slo: requests above the SLO; None without one.
        late_ns: by how much requests were released late, 99th percentile; None for a closed loop.
        serves_per_s: requests a second that it can answer, if it cannot serve the load; else None.
        wrong: in words, how outputs under load differ from those of the same worker alone; "" if
            they do not.
        disturbed: what else used the machine meanwhile, in words.
    """

    offered_per_s: float | None = None
    clients: int | None = None
    workers: int
    answered_per_s: float
    images_per_s: float
    requests: int
    dropped: int = 0
    waiting: int = 0
    busy: float
    latency_ns: tuple[int, ...]
    p50_ns: float
    p90_ns: int | None
    p99_ns: int | None
    max_ns: int
    over_slo: int | None = None
    late_ns: int | None = None
    serves_per_s: float | None = None
    wrong: str = ""
    disturbed: tuple[str, ...] = ()

    @property
    def verdict(self) -> SloVerdict | None:
        """Whether 99 % of requests are within the SLO, at 99 % confidence; None without an SLO."""
        if self.over_slo is None:
            return None
        if self.serves_per_s is not None or self.dropped or self.wrong:
            return "missed"
        return slo_verdict(self.over_slo, self.requests)

    @property
    def label(self) -> str:
        """The load in words."""
        if self.clients is not None:
            return f"{self.clients} client{'s' * (self.clients > 1)}"
        return f"{number(self.offered_per_s or 0.0)}/s"


class LoadRecord(Strict):
    """A row under load.

    Attributes:
        load: as it was requested, for example ``poisson:100``.
        slo_ns: latency that 99 % of requests must not exceed, nanoseconds; None without an SLO.
        probes: the load; of a search, all that were tried, in order.
        largest_per_s: largest rate that met the SLO twice, of a search; None if none did, or for a
            fixed load.
        missed_per_s: smallest rate above it that did not; None if none was tried.
        cut: why it ended early; "" if it did not.
    """

    load: str
    slo_ns: int | None = None
    probes: tuple[Probe, ...]
    largest_per_s: float | None = None
    missed_per_s: float | None = None
    cut: str = ""

    @property
    def searched(self) -> bool:
        """Whether the rate was searched."""
        return self.load == "poisson"


def probe_of(
    answers: Answers,
    batch: int,
    *,
    offered_per_s: float | None = None,
    clients: int | None = None,
    slo_ns: int | None = None,
    wrong: str = "",
    disturbed: tuple[str, ...] = (),
) -> Probe:
    """The record of one load.

    Args:
        answers: at least one.
        batch: images in a request.
        offered_per_s: requested rate of an open loop.
        clients: of a closed loop.
        slo_ns: nanoseconds.
        wrong: as in `Probe`.
        disturbed: as in `Probe`.
    """
    latencies = answers.latencies_ns
    step = -(-len(latencies) // MOST_STORED)
    grown = max(2 * answers.workers, _GROWN * len(latencies))
    swamped = answers.busy > _SATURATED and answers.waiting > grown
    beyond = offered_per_s is not None and offered_per_s > _most_per_s(answers)
    cannot = clients is None and (answers.gave_up or swamped or beyond)
    late = sorted(answers.late_ns)
    return Probe(
        offered_per_s=offered_per_s,
        clients=clients,
        workers=answers.workers,
        answered_per_s=answers.per_s,
        images_per_s=answers.per_s * batch,
        requests=len(latencies),
        dropped=answers.dropped,
        waiting=answers.waiting,
        busy=answers.busy,
        latency_ns=tuple(latencies[::step]),
        p50_ns=statistics.median(latencies),
        p90_ns=percentile_bound(latencies, 90),
        p99_ns=percentile_bound(latencies, 99),
        max_ns=max(latencies),
        over_slo=None if slo_ns is None else sum(one > slo_ns for one in latencies),
        late_ns=late[int(0.99 * (len(late) - 1))] if late else None,
        serves_per_s=answers.capacity_per_s if cannot else None,
        wrong=wrong,
        disturbed=disturbed,
    )


def _most_per_s(answers: Answers) -> float:
    """Answers a second of workers that never wait, at most, at 99 % confidence."""
    times = [one.done - one.started for one in answers.answers]
    error = statistics.stdev(times) / math.sqrt(len(times)) if len(times) > 1 else math.inf
    least = statistics.fmean(times) - _ERRORS * error
    return answers.workers * 1e9 / least if least > 0 else math.inf


def number(value: float, digits: int = 4) -> str:
    """``value`` with so many digits, or all those before the point: never with an exponent."""
    return f"{value:.0f}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def slo_verdict(over: int, requests: int) -> SloVerdict:
    """Whether at most 1 % of all requests exceed the SLO if ``over`` of ``requests`` did: at 99 %
    confidence, or it cannot be told.
    """
    from scipy.stats import binom

    most = droppable(requests, 99)
    if most is not None and over <= most:
        return "met"
    # as many or more, if exactly 1 % of all did
    return "missed" if binom.sf(over - 1, requests, 0.01) <= 1 - CONFIDENCE else "cannot tell"


def clear_miss(requests: int) -> int:
    """How many of ``requests`` must exceed the SLO for a clear miss."""
    from scipy.stats import binom

    return int(binom.isf(1 - CONFIDENCE, requests, 0.01)) + 1


def more_requests(over: int, requests: int) -> int | None:
    """How many more requests would show that the SLO is met, if as large a share of them exceeds it
    as so far; None if no reasonable number would.
    """
    if over >= 0.01 * requests and over:
        return None
    total = max(requests, LEAST_SAMPLES[99])
    while total <= _MOST_MORE:
        if (droppable(total, 99) or 0) >= over * total / max(requests, 1):
            return total - requests
        total = int(total * 1.1) + 1
    return None
