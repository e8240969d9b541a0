"""Runs a plan over open sessions: warm-up, then interleaved rounds. Knows no backends, no
reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from resnext.errors import ResnextError, SessionFailed
from resnext.machine.load import Load, Meter
from resnext.machine.nvml import GpuState
from resnext.runtimes.session import Arrays, Bound, Boundary, Session
from resnext.timing.clock import iterations_for, now_ns, time_device, time_host
from resnext.timing.interleave import shuffled, turns
from resnext.timing.streams import time_streams

from .deadline import Deadline
from .plan import Case, Plan
from .stats import LEAST_SAMPLES

_WARMUP_RUNS = 3


@dataclass
class Samples:
    """Raw times of one case.

    Attributes:
        host_ns: host times, one list for each round, nanoseconds.
        device_ns: device times in the same form, if the session has a CUDA stream.
        device_wall_ns: host time around each round's device-timed runs, waiting included; the
            device times must account for it.
        device_boundary: what the device times enclose.
        warmup_runs: untimed runs before the first round.
        gpu: state of the GPU in each round, if NVML reports it and the session has a CUDA stream.
        loads: use of the processors in each round.
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
    gpu: list[GpuState] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    warmup_runs: int = 0
    output: NDArray[Any] | None = None
    other_outputs: tuple[NDArray[Any], ...] = ()
    bound_output: NDArray[Any] | None = None
    error: ResnextError | None = None


@dataclass(frozen=True)
class Subject:
    """An open session with its input, also bound."""

    session: Session
    inputs: dict[str, NDArray[Any]]
    bound: Bound


def measure(
    subjects: Mapping[Case, Subject],
    plan: Plan,
    progress: Callable[[str], None] = lambda _: None,
    deadline: Deadline | None = None,
    gpu_state: Callable[[], GpuState | None] = lambda: None,
) -> dict[Case, Samples]:
    """Measure every case of ``subjects`` by ``plan``.

    Args:
        subjects: open sessions. A case of the plan that is not in here is left out.
        plan: rounds, durations and order.
        progress: called with a line at every warm-up and round.
        deadline: once it is over, no further visit begins. Cells then keep the rounds that all of
            them had, so that their times were taken side by side; one that has too few samples for
            a row has the deadline as its error.
        gpu_state: reads the GPU after each visit to a session with a CUDA stream, untimed.

    Returns:
        Raw samples by case. A session that raises keeps its samples so far and the error; the rest
        goes on.
    """
    deadline = deadline or Deadline()
    samples = {case: Samples() for case in plan.cases if case in subjects}
    counts: dict[Case, int] = {}
    for case in samples:
        if deadline.over():
            return _cut(samples, deadline)
        progress(f"warming up {case}")
        took_ns = _guard(samples[case], partial(_warm_up, subjects[case], plan, samples[case]))
        counts[case] = iterations(plan, took_ns or 1e9)
    shown = 0
    for index, case in turns(plan.cases, plan.rounds, shuffled(plan.seed)):
        if index == shown:
            shown += 1
            progress(f"round {shown}/{plan.rounds}")
        if case in samples and samples[case].error is None:
            if deadline.over():
                return _cut(samples, deadline)
            _guard(
                samples[case],
                partial(visit, subjects[case], samples[case], counts[case], gpu_state),
            )
    return samples


def iterations(plan: Plan, estimate_ns: float) -> int:
    """Timed runs of one visit to a case whose runs take about ``estimate_ns``."""
    by_count = -(-plan.min_samples // plan.rounds)
    return iterations_for(plan.duration_s * 1e9 / plan.rounds, estimate_ns, least=by_count)


def _cut(samples: dict[Case, Samples], deadline: Deadline) -> dict[Case, Samples]:
    """Samples that end early, cut to the rounds that every case had, or to the first if none was
    complete.
    """
    unfinished = [one for one in samples.values() if one.error is None]
    shared = max(1, min((len(one.host_ns) for one in unfinished), default=0))
    for one in unfinished:
        for rounds in (one.host_ns, one.device_ns, one.device_wall_ns, one.gpu):
            del rounds[shared:]
        if sum(map(len, one.host_ns)) < LEAST_SAMPLES[50]:
            one.error = deadline.not_measured()
    return samples


def as_failure(exc: Exception) -> ResnextError:
    """An error of any library as one of this toolkit's, with its first line."""
    if isinstance(exc, ResnextError):
        return exc
    first = next((line for line in str(exc).splitlines() if line.strip()), "no message")
    return SessionFailed(f"{type(exc).__name__}: {first}")


def _guard(samples: Samples, step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as exc:  # whatever a runtime raises ends only its own case
        samples.error = as_failure(exc)
        return None


def _warm_up(subject: Subject, plan: Plan, samples: Samples) -> float:
    """Run until warm; returns the nanoseconds of the last run."""
    started = now_ns()
    took = 0
    while samples.warmup_runs < _WARMUP_RUNS or now_ns() - started < plan.warmup_s * 1e9:
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
) -> None:
    """Time ``iterations`` runs of ``subject`` by the host's clock, and by the device's if it has
    one and one request is in flight; the times and the last outputs go into ``samples``.
    """
    session, inputs, bound = subject.session, subject.inputs, subject.bound
    calls = [Call(lane, inputs) for lane in session.lanes()]
    for call in calls:
        call()  # untimed: caches and thread pools are still set for the previous case
    meter = Meter()
    before = meter.read()
    if len(calls) == 1:
        samples.host_ns.append(time_host(calls[0], iterations))
    else:
        samples.host_ns.append(time_streams(calls, iterations))
    samples.loads.append(meter.since(before))
    name = session.outputs[0].name
    samples.output, *others = [call.last[name] for call in calls]
    samples.other_outputs = tuple(others)
    if bound.cuda_stream is not None and len(calls) == 1:
        times, wall_ns = time_device(bound, iterations)
        if (state := gpu_state()) is not None:  # at once: an idle GPU lowers its clocks
            samples.gpu.append(state)
        samples.device_ns.append(times)
        samples.device_wall_ns.append(wall_ns)
        samples.device_boundary = bound.boundary
        samples.bound_output = bound.fetch()[session.outputs[0].name]
