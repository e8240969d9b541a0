"""Runs a plan over open sessions: warm-up, then interleaved rounds until enough is known. Knows no
backends, no reports.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from numpy.typing import NDArray

from resnext.errors import ResnextError, SessionFailed
from resnext.machine.faults import environment_fault
from resnext.machine.load import Load, Meter
from resnext.machine.nvml import GpuState
from resnext.progress import Amount, Step
from resnext.runtimes.session import Arrays, Bound, Boundary, Counters, Session
from resnext.timing.clock import now_ns, settle, time_device, time_enqueue, time_host
from resnext.timing.cold import Cache, Flush, flush_for
from resnext.timing.interleave import shuffled, turns
from resnext.timing.streams import time_streams

from .control import noise_floor
from .deadline import Deadline
from .plan import Case, Plan
from .stats import LEAST_SAMPLES, precision_of, quiet, ratio_interval
from .steadiness import steady

_WARMUP_RUNS = 3
#: Runs of a visit whose queuing is timed.
_ENQUEUES = 3
#: The samples may be a little faster than the estimate that their count was made for.
_NEARLY = 0.9

#: After this many times the planned rounds, all of them disturbed, more are not going to help.
_HOPELESS_TIMES = 1.5

#: Why measuring ended: every row is as precise as requested, all rounds were measured, time was up,
#: or a signal.
Ended = Literal["precise", "rounds", "time", "interrupted"]


@dataclass
class Samples:
    """Raw times of one case.

    Attributes:
        host_ns: host times, one list for each round, nanoseconds.
        device_ns: device times in the same form, if the session has a CUDA stream.
        device_wall_ns: host time around each round's device-timed runs, waiting included; the
            device times must account for it.
        device_boundary: what the device times enclose.
        cache: whether the caches were emptied before each timed run.
        enqueue_ns: host times to queue a run, of all rounds.
        warmup_runs: untimed runs before the first round.
        gpu: state of the GPU in each round, if NVML reports it and the session has a CUDA stream.
        loads: use of the processors in each round.
        counted: what the server that computes counted in each round; empty without one, or if it
            does not tell.
        disturbed: what disturbed a round, in words, by its index; undisturbed rounds are not in it.
        output: output of the last timed run, so that parity is judged on a run that was timed; with
            several requests in flight, of the first stream.
        other_outputs: outputs of the other streams' last timed runs.
        bound_output: output of the last device-timed run.
        error: why measuring stopped, or None.
    """

    host_ns: list[list[int]] = field(default_factory=list)
    device_ns: list[list[int]] = field(default_factory=list)
    device_wall_ns: list[int] = field(default_factory=list)
    device_boundary: Boundary | None = None
    cache: Cache = "hot"
    enqueue_ns: list[int] = field(default_factory=list)
    gpu: list[GpuState] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    counted: list[Counters] = field(default_factory=list)
    disturbed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    warmup_runs: int = 0
    output: NDArray[Any] | None = None
    other_outputs: tuple[NDArray[Any], ...] = ()
    bound_output: NDArray[Any] | None = None
    error: ResnextError | None = None

    def reported_ns(self) -> dict[int, tuple[int, ...]]:
        """The undisturbed rounds at the boundary that a row is judged by: the device's, or without
        one the host's.
        """
        return quiet(self.device_ns or self.host_ns, self.disturbed)


@dataclass(frozen=True)
class Subject:
    """An open session with its input, also bound.

    Attributes:
        session: runs the network.
        inputs: its input.
        bound: the same input in dedicated buffers.
        threads: CPU threads that the session was given, which need that many processors; None if
            a server on this machine takes processors as well, and nobody can tell how many.
        flush: empties the caches before each timed run; None leaves them hot.
    """

    session: Session
    inputs: dict[str, NDArray[Any]]
    bound: Bound
    threads: int | None = 1
    flush: Flush | None = None

    @property
    def flush_ns(self) -> int:
        """Untimed nanoseconds before each timed run."""
        return 0 if self.flush is None else self.flush.took_ns


def with_cache(subject: Subject, cache: Cache) -> Subject:
    """``subject`` with what empties its caches, if they are to be cold."""
    if cache == "hot":
        return subject
    return replace(subject, flush=flush_for(subject.bound.cuda_stream))


@dataclass
class Measured:
    """Outcome of `measure`.

    Attributes:
        samples: by case. A session that raised keeps its samples so far and the error.
        control: the second set of samples of ``controlled``, measured as if it were another case.
        controlled: the first case that could be warmed up; None if the plan has no control.
        ended: why measuring ended.
    """

    samples: dict[Case, Samples]
    control: Samples | None = None
    controlled: Case | None = None
    ended: Ended = "rounds"

    def some_without_a_quiet_round(self) -> bool:
        """Whether every round so far of some case was disturbed."""
        return any(not one.reported_ns() for one in self.all())

    def all(self) -> list[Samples]:
        """Of all cases and of the control, those that still run."""
        control = [] if self.control is None else [self.control]
        return [one for one in (*self.samples.values(), *control) if one.error is None]


def measure(
    subjects: Mapping[Case, Subject],
    plan: Plan,
    progress: Callable[[str], None] = lambda _: None,
    deadline: Deadline | None = None,
    gpu_state: Callable[[], GpuState | None] = lambda: None,
    meter: Meter | None = None,
) -> Measured:
    """Measure every case of ``subjects`` by ``plan``.

    Args:
        subjects: open sessions. A case of the plan that is not in here is left out.
        plan: rounds, durations, order, and when it is enough.
        progress: called with a line at every warm-up, and with a `Step` at every round.
        deadline: once it is over, no further visit begins. Cases then keep the rounds that all of
            them had, so that their times were taken side by side; one that has too few samples for
            a row has the deadline as its error.
        gpu_state: reads the GPU after each visit to a session with a CUDA stream, untimed.
        meter: reads the use of the processors around each visit, untimed.
    """
    deadline, meter = deadline or Deadline(), meter or Meter()
    done = Measured({case: Samples() for case in plan.cases if case in subjects})
    visits: list[_Visited] = []
    for case, samples in done.samples.items():
        if deadline.over():
            return _cut(done, deadline)
        progress(f"warming up {case}")
        subject = subjects[case]
        took_ns = _guard(samples, partial(_warm_up, subject, plan.warmup_s, samples))
        count = plan.iterations((took_ns or 1e9) + subject.flush_ns)
        visits.append(_Visited(subject, samples, count))
        if took_ns is not None and done.controlled is None and plan.precision is not None:
            done.controlled, done.control = case, Samples()
            visits.append(_Visited(subject, done.control, count))
    shown = 0
    amount = Amount(total=plan.rounds * len(visits), ends=deadline.ends)
    for index, one in turns(visits, plan.most_rounds, shuffled(plan.seed)):
        if index == shown:
            missing = "" if index < plan.rounds else unfinished(done, plan)
            if index >= plan.rounds and not missing:
                done.ended = "precise"
                return done
            if index >= _HOPELESS_TIMES * plan.rounds and done.some_without_a_quiet_round():
                return done
            shown += 1
            if missing:
                amount.total, amount.at_most = plan.most_rounds * len(visits), True
            line = f"round {shown}: {missing}" if missing else f"round {shown}/{plan.rounds}"
            progress(Step(line, amount))
        if one.samples.error is None:
            if deadline.over():
                return _cut(done, deadline)
            arguments = one.subject, one.samples, one.count, gpu_state, meter
            _guard(one.samples, partial(visit, *arguments))
            if one.samples.host_ns and one.samples.host_ns[-1]:
                # of the fastest round: the warm-up may have been disturbed
                estimate_ns = min(statistics.median(burst) for burst in one.samples.host_ns)
                one.count = plan.iterations(estimate_ns + one.subject.flush_ns)
        amount.done += 1
    if plan.precision is not None and not unfinished(done, plan):
        done.ended = "precise"
    return done


@dataclass
class _Visited:
    """A case or the control, with the number of timed runs of its next visit."""

    subject: Subject
    samples: Samples
    count: int


def unfinished(done: Measured, plan: Plan) -> str:
    """What is still missing, in words; empty if every case has enough undisturbed rounds, samples
    and time, is steady, and is as precise as ``plan`` asks.
    """
    if plan.precision is None:
        return ""
    worst = 0.0
    if not done.all():
        return "nothing could be measured"
    for one in done.all():
        rounds = one.reported_ns()
        count, timed_ns = sum(map(len, rounds.values())), sum(map(sum, rounds.values()))
        if len(rounds) < plan.rounds and one.disturbed:
            return f"{len(one.disturbed)} of {len(one.host_ns)} rounds were disturbed"
        timed = plan.cache == "cold" or timed_ns >= _NEARLY * plan.duration_s * 1e9
        if count < plan.min_samples or not timed:  # cold: the duration is mostly that of flushes
            return "too few samples"
        if not steady(list(rounds.values())):
            return "not steady"
        precision = precision_of(rounds.values())
        worst = max(worst, 1.0 if precision is None else precision)
    if done.control is not None and done.controlled is not None and not done.control.error:
        both = done.control, done.samples[done.controlled]
        ratio = ratio_interval(*(one.reported_ns() for one in both))
        worst = max(worst, 1.0 if ratio is None else noise_floor(ratio))
    return f"intervals are within {worst:.1%}" if worst > plan.precision else ""


def _cut(done: Measured, deadline: Deadline) -> Measured:
    """Samples that end early, cut to the rounds that every case had, or to the first if none was
    complete.
    """
    going = done.all()
    shared = max(1, min((len(one.host_ns) for one in going), default=0))
    for one in going:
        every = one.host_ns, one.device_ns, one.device_wall_ns, one.gpu, one.loads, one.counted
        for rounds in every:
            del rounds[shared:]
        one.disturbed = {index: why for index, why in one.disturbed.items() if index < shared}
        if sum(map(len, one.host_ns)) < LEAST_SAMPLES[50]:
            one.error = deadline.not_measured()
    done.ended = "interrupted" if deadline.interrupted else "time"
    return done


def as_failure(exc: Exception) -> ResnextError:
    """An error of any library as one of this toolkit's, with its first line."""
    if isinstance(exc, ResnextError):
        return exc
    if fault := environment_fault(exc):
        return fault
    first = next((line for line in str(exc).splitlines() if line.strip()), "no message")
    return SessionFailed(f"{type(exc).__name__}: {first}")


def _guard(samples: Samples, step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as exc:  # whatever a runtime raises ends only its own case
        samples.error = as_failure(exc)
        return None


def _warm_up(subject: Subject, warmup_s: float, samples: Samples) -> float:
    """Run until warm; returns the nanoseconds of the last run."""
    started = now_ns()
    took = 0
    while samples.warmup_runs < _WARMUP_RUNS or now_ns() - started < warmup_s * 1e9:
        before = now_ns()
        subject.session.run(subject.inputs)
        took = now_ns() - before
        samples.warmup_runs += 1
    return float(took)


class Call:
    """One run of a session to be timed, and its last outputs."""

    def __init__(self, run: Callable[[Arrays], Arrays], inputs: Arrays) -> None:
        self._run, self._inputs = run, inputs
        self.last: Arrays = {}

    def __call__(self) -> None:
        """Run."""
        self.last = self._run(self._inputs)


def visit(
    subject: Subject,
    samples: Samples,
    iterations: int,
    gpu_state: Callable[[], GpuState | None] = lambda: None,
    meter: Meter | None = None,
) -> None:
    """Time ``iterations`` runs of ``subject`` by the host's clock, and by the device's if it has
    one and a single request is in flight; the times, the load around them and the last outputs go
    into ``samples``.
    """
    session, inputs, bound = subject.session, subject.inputs, subject.bound
    calls = [Call(stream, inputs) for stream in session.streams()]
    meter = meter or Meter()
    samples.cache = "hot" if subject.flush is None else "cold"
    for call in calls:
        settle(call)
    counted = session.counters()
    before = meter.read()
    if len(calls) == 1:
        samples.host_ns.append(time_host(calls[0], iterations, **_before(subject.flush)))
    else:
        samples.host_ns.append(time_streams(calls, iterations))
    name = session.outputs[0].name
    samples.output, *others = [call.last[name] for call in calls]
    samples.other_outputs = tuple(others)
    why: list[str] = []
    on_device = bound.cuda_stream is not None
    by_device = on_device and len(calls) == 1  # events on one stream say nothing of the others
    if by_device:
        on_stream = _before(subject.flush and subject.flush.enqueue)
        times, wall_ns = time_device(bound, iterations, **on_stream)
    if on_device and (state := gpu_state()) is not None:  # at once: an idle GPU lowers its clocks
        samples.gpu.append(state)
        why += state.disturbances()
    if by_device:
        samples.device_ns.append(times)
        samples.device_wall_ns.append(wall_ns)
        samples.device_boundary = bound.boundary
        samples.enqueue_ns += time_enqueue(bound, _ENQUEUES)
        samples.bound_output = bound.fetch()[name]
    load = meter.since(before)
    if counted is not None and (now := session.counters()) is not None:
        samples.counted.append(now - counted)
    samples.loads.append(load)
    # A device works without the processors; one thread for each request feeds it.
    why += load.disturbances(len(calls) if on_device else subject.threads)
    if why:
        samples.disturbed[len(samples.host_ns) - 1] = tuple(why)


def _before(flush: Callable[[], None] | None) -> dict[str, Callable[[], None]]:
    return {} if flush is None else {"before": flush}
