"""A row under load: requests of independent users at a rate, or of a number of clients."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import GateFailed, ResnextError, UsageError
from resnext.machine.load import Meter
from resnext.runtimes.session import Arrays
from resnext.timing.clock import settle
from resnext.timing.requests import Answers, closed_loop, open_loop
from resnext_bench.stats import LEAST_SAMPLES

from .load_record import LoadRecord, Probe, clear_miss, number, probe_of
from .load_search import search
from .scenario import Stage

#: What `Load.spec` may be.
FORMS = "closed:N (clients), poisson:RATE (requests a second), or poisson (search, with an SLO)"
_MOST_CLIENTS, _MOST_RATE = 10_000, 1e6
#: The queue has room for what the row answers in so many seconds, at least for so many requests.
_ROOM_S, _LEAST_ROOM = 1.0, 64
#: Outputs of each worker that are compared, those of its last requests: as many, in as many bytes.
_COMPARED, _COMPARED_BYTES = 10_000, 64 << 20
#: Largest difference of outputs under load, relative to their RMS.
_MOST_DIFFERENCE = 1e-3
#: Seconds that the fewest requests may take, and the most requests of a load.
_MOST_S, _MOST_REQUESTS = 3600.0, 10_000_000
#: Seconds that a run may take at least, and times a usual one; longer ones never return.
PATIENCE_S, SLOWER = 10.0, 50.0


@dataclass(frozen=True)
class Load:
    """Runs each row under load after its timed rounds; a scenario for `benchmark`.

    A request is one run of the row's batch, and is answered by one of the row's streams. Latency
    counts from the planned arrival: what waits behind a slow answer is slow too.

    Attributes:
        spec: ``closed:N``: N clients, each with one request in flight; ``poisson:RATE``: RATE
            requests a second at random, whether earlier ones are answered or not; ``poisson``: the
            largest rate at which the SLO is met is searched.
        slo_ms: milliseconds that 99 % of requests must not exceed, at 99 % confidence.
        duration: minimum seconds of a load; with an SLO it lasts for 662 requests at least.

    Raises:
        UsageError: a load of another form, a search without an SLO, or values out of range.
    """

    spec: str
    slo_ms: float | None = None
    duration: float = 5.0

    def __post_init__(self) -> None:
        kind, rate = _parsed(self.spec)
        if kind == "poisson" and rate is None and self.slo_ms is None:
            raise UsageError(
                "`load` poisson searches the largest rate that meets an SLO",
                hint="give `slo`, for example 20ms, or a rate: poisson:100",
            )
        if self.slo_ms is not None and not 0 < self.slo_ms < math.inf:
            raise UsageError(f"`slo` must be above 0, not {self.slo_ms:g} ms")
        if not 0 < self.duration < math.inf:
            raise UsageError(f"`duration` must be above 0, not {self.duration:g} s")
        if kind == "poisson" and rate is not None:
            refuse_endless(rate, self._least, self.duration)

    @property
    def field(self) -> str:
        """Field of `Row`."""
        return "load"

    @property
    def slo_ns(self) -> int | None:
        """The SLO in nanoseconds."""
        return None if self.slo_ms is None else round(self.slo_ms * 1e6)

    @property
    def _least(self) -> int:
        """Requests of a load, at least."""
        return LEAST_SAMPLES[99] if self.slo_ms else LEAST_SAMPLES[50]

    @property
    def rate(self) -> float | None:
        """Requests a second, if they are fixed."""
        kind, rate = _parsed(self.spec)
        return rate if kind == "poisson" else None

    def __call__(self, stage: Stage) -> LoadRecord:
        """The row under load.

        Raises:
            GateFailed: the SLO is less than the fastest answer of the timed rounds.
            ResnextError: the session failed under load.
        """
        refuse_impossible(self.slo_ns, stage)
        kind, strength = _parsed(self.spec)
        if kind == "closed" or strength is None:
            refuse_endless(service_rate(stage), self._least, self.duration, "a smaller `batch`")
        workers = workers_of(stage)
        if strength is not None:
            closed = kind == "closed"
            seconds = self._least / (service_rate(stage) if closed else strength)
            load = f"{strength:.0f} client{'s' * (strength > 1)}" if closed else f"{strength:g}/s"
            stage.say(f"load of {load} on {stage.case}, about {max(seconds, self.duration):.0f} s")
            if closed:
                probe, stopped = self._closed(stage, workers, int(strength))
            else:
                probe, stopped = self._open(stage, workers, strength, 0)
            cut = _why(stage) if stopped else ""
            return LoadRecord(load=self.spec, slo_ns=self.slo_ns, probes=(probe,), cut=cut)
        assert self.slo_ns is not None

        def tried(rate: float, index: int) -> Probe | None:
            try:
                probe, _ = self._open(stage, workers, rate, index, searching=True)
            except ResnextError:
                if index and stage.deadline.over():
                    return None
                raise
            return None if index and stage.deadline.over() else probe

        def say(line: str, rate: float) -> None:
            seconds = max(self._least / rate, self.duration)
            stage.say(f"{line} on {stage.case}, at most {seconds:.0f} s")

        record = search(tried, service_rate(stage), self.slo_ns, stage.deadline.over, say)
        cut = "interrupted" if record.cut and stage.deadline.interrupted else record.cut
        return record.model_copy(update={"cut": cut})

    def _closed(self, stage: Stage, workers: list[Worker], clients: int) -> tuple[Probe, bool]:
        def run() -> Answers:
            return closed_loop(
                workers,
                clients,
                self.duration * 1e9,
                self._least,
                stage.deadline.over,
                patience_s(stage),
            )

        return self._probe(stage, workers, run, clients=clients)

    def _open(
        self,
        stage: Stage,
        workers: list[Worker],
        rate: float,
        index: int,
        *,
        searching: bool = False,
    ) -> tuple[Probe, bool]:
        refuse_endless(rate, 0, self.duration)
        count = max(self._least, math.ceil(rate * self.duration))
        arrivals = poisson_arrivals(rate, count, (stage.seed, index))
        seconds = max(_ROOM_S, 2e-3 * (self.slo_ms or 0.0))
        room = max(_LEAST_ROOM, math.ceil(service_rate(stage) * seconds))
        most_over = (self.slo_ns, clear_miss(count)) if searching and self.slo_ns else None

        def run() -> Answers:
            return open_loop(
                workers, arrivals, room, stage.deadline.over, most_over, patience_s(stage)
            )

        return self._probe(stage, workers, run, offered_per_s=rate)

    def _probe(
        self, stage: Stage, workers: list[Worker], run: Callable[[], Answers], **load: Any
    ) -> tuple[Probe, bool]:
        for worker in workers:
            settle(worker)
        meter = Meter()
        before = meter.read()
        answers = run()
        used = meter.since(before)
        few = len(answers.answers) < LEAST_SAMPLES[50]
        if few and not (answers.gave_up and answers.answers):
            raise stage.deadline.not_measured()
        on_device = stage.subject.bound.cuda_stream is not None
        threads = len(workers) if on_device else stage.subject.threads
        probe = probe_of(
            answers,
            stage.case.batch,
            slo_ns=self.slo_ns,
            wrong=next(filter(None, (worker.wrong() for worker in workers)), ""),
            disturbed=tuple(used.disturbances(threads)),
            **load,
        )
        return probe, answers.stopped


class Worker:
    """A stream with its input, and its last outputs.

    Args:
        run: the stream.
        inputs: one batch.
        name: of the output.
        timed: output of the timed runs, if they had the same input.
    """

    def __init__(
        self,
        run: Callable[[Arrays], dict[str, NDArray[Any]]],
        inputs: Arrays,
        name: str,
        timed: NDArray[Any] | None = None,
    ) -> None:
        self._run, self._inputs, self._name = run, inputs, name
        # A copy: a runtime that reuses its buffer would be compared with itself.
        self._alone = np.array(run(inputs)[name] if timed is None else timed)
        most = max(1, min(_COMPARED, _COMPARED_BYTES // max(1, self._alone.nbytes)))
        self._last: deque[NDArray[Any]] = deque(maxlen=most)

    def __call__(self) -> None:
        """Run."""
        self._last.append(self._run(self._inputs)[self._name])

    def wrong(self) -> str:
        """How the last outputs differ from that of a run that was alone; "" if not."""
        scale = float(np.sqrt(np.mean(np.square(self._alone, dtype=np.float64)))) or 1.0
        for output in self._last:
            if output.shape != self._alone.shape:
                return f"an output has the shape {output.shape}, alone {self._alone.shape}"
            error = float(np.abs(output.astype(np.float64) - self._alone).max()) / scale
            if not math.isfinite(error):
                return "an output is not finite"
            if error > _MOST_DIFFERENCE:
                return (
                    f"an output differs from that of the same run alone by {error:.1e} of its RMS"
                )
        return ""


def workers_of(stage: Stage) -> list[Worker]:
    """A worker for each stream of the row. The first has the timed input; each other one has its
    pixels moved by one more column, so that mixed-up requests show.
    """
    subject = stage.subject
    name = subject.session.outputs[0].name
    workers = []
    for index, stream in enumerate(subject.session.streams()):
        moved = {key: np.roll(array, index, axis=-1) for key, array in subject.inputs.items()}
        timed = stage.samples.output if index == 0 else None
        workers.append(Worker(stream, moved, name, timed))
    return workers


def poisson_arrivals(rate: float, count: int, seed: tuple[int, int]) -> list[int]:
    """Planned arrivals of ``count`` requests, nanoseconds from the start, at ``rate`` a second."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, count)
    arrivals: list[int] = np.cumsum(gaps).astype(np.int64).tolist()
    return arrivals


def service_rate(stage: Stage) -> float:
    """Requests a second that the streams answered in the timed rounds."""
    times = [one for burst in stage.samples.host_ns for one in burst]
    return stage.case.streams * 1e9 / max(float(np.median(times)), 1.0)


def patience_s(stage: Stage) -> float:
    """Seconds after which a run never returns."""
    return max(PATIENCE_S, SLOWER * stage.case.streams / service_rate(stage))


def refuse_endless(
    rate: float, least: int, duration: float = 0.0, remedy: str = "a higher rate as `load`"
) -> None:
    """Refuse a load that would take hours for the fewest requests that say something, or that has
    more requests than memory holds.

    Args:
        rate: requests a second.
        least: the fewest.
        duration: requested seconds; 0 if it keeps no list of requests.
        remedy: for a rate that is too low.

    Raises:
        UsageError: the rate is too low, or too high for the duration.
    """
    if (seconds := least / rate) > max(_MOST_S, duration):
        raise UsageError(
            f"{least} requests, the fewest for a verdict, would take {number(seconds / 3600)} hours"
            f" at {rate:.3g}/s",
            hint=f"give {remedy}",
        )
    if rate * duration > _MOST_REQUESTS:
        raise UsageError(
            f"{rate:g}/s for {duration:g} s are {number(rate * duration)} requests; a load has at"
            f" most {_MOST_REQUESTS:,}",
            hint="give a shorter `duration` or a lower rate",
        )


def _why(stage: Stage) -> str:
    return "interrupted" if stage.deadline.interrupted else "time was up"


def refuse_impossible(slo_ns: int | None, stage: Stage) -> None:
    """Refuse an SLO that no request can meet.

    Raises:
        GateFailed: it is less than the fastest timed run.
    """
    fastest = min(one for burst in stage.samples.host_ns for one in burst)
    if slo_ns is not None and slo_ns < fastest:
        raise GateFailed(
            f"an SLO of {slo_ns / 1e6:g} ms is less than the fastest timed run,"
            f" {fastest / 1e6:.3g} ms",
            hint="give a longer `slo`, a smaller `batch` or a faster backend",
        )


def _parsed(spec: str) -> tuple[str, float | None]:
    """Kind and number of a load.

    Raises:
        UsageError: another form, or a number out of range.
    """
    if spec == "poisson":
        return spec, None
    if match := re.fullmatch(r"closed:([0-9]{1,6})", spec):
        if 1 <= (clients := int(match[1])) <= _MOST_CLIENTS:
            return "closed", clients
        raise UsageError(f"`load` {spec!r} must have 1 to {_MOST_CLIENTS} clients")
    if match := re.fullmatch(r"poisson:([0-9]{1,9}(?:\.[0-9]{1,9})?)", spec):
        if 0 < (rate := float(match[1])) <= _MOST_RATE:
            return "poisson", rate
        raise UsageError(f"`load` {spec!r} must have a rate above 0 and at most {_MOST_RATE:g}/s")
    raise UsageError(f"unknown `load` {spec!r}; it must be {FORMS}")
