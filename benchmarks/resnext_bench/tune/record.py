"""The stored form of a search: every candidate with what is known of it and why it fell."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from resnext.artifact.manifest import Sha256, WeightsRecord
from resnext.artifact.specs import Strict
from resnext.machine.environment import Environment
from resnext.precision import Precision
from resnext.timing.change import Verdict
from resnext.verify.accuracy import Accuracy
from resnext.verify.parity import Parity

#: Nanoseconds, bytes and counts, as far as machines have them.
Whole: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 63)]
#: How many at once.
Several: TypeAlias = Annotated[int, Field(ge=1, lt=1 << 31)]

#: What is made as good as it can be.
Goal: TypeAlias = Literal["latency", "throughput"]

#: What became of a candidate, from first to last: it cannot run here or cannot reach the requested
#: precision (``refused``), its export or its session failed (``failed``), it missed a gate
#: (``gate``), the race dropped it (``slower``), it is as fast as the pick within the margin
#: (``same``), it was chosen (``picked``), or time was up before it was known (``not-measured``).
#: ``baseline`` is eager PyTorch, which is timed for comparison and never chosen.
Outcome: TypeAlias = Literal[
    "picked", "same", "slower", "gate", "refused", "failed", "not-measured", "baseline"
]

#: Why a search ended: one candidate is left, those left are equally fast, all rounds are measured,
#: time was up, or a signal.
Ended: TypeAlias = Literal["one-left", "same", "rounds", "time", "interrupted"]


class GateRecord(Strict):
    """One gate of the user, and what a candidate has.

    Attributes:
        name: ``agreement``, ``top1-loss``, ``p99``, ``size``, ...: as in ``--gate`` and ``--slo``.
        actual: the candidate's value, in the unit of the gate; None if it could not be known, which
            does not pass.
        allowed: the limit.
        at_least: the limit is a lower bound.
        unit: ``share``, ``points``, ``ms`` or ``MB``.
    """

    name: str
    actual: float | None
    allowed: float
    at_least: bool = False
    unit: Literal["share", "points", "ms", "MB"]

    @property
    def passed(self) -> bool:
        """Whether it is met; false for NaN and for what is not known."""
        if self.actual is None:
            return False
        return self.actual >= self.allowed if self.at_least else self.actual <= self.allowed


class CandidateRecord(Strict):
    """One point of the search: an artifact, and how it is run.

    Attributes:
        name: unique in the search, for people: ``openvino int8 merged auto, 2 streams, batch 8``.
        backend: registry name.
        precision: of weights and activations.
        merge_groups: minimum channels of a group, ``auto``, or None.
        calibration_method: of a quantized artifact; None for others.
        batch: images in one run.
        threads: CPU threads.
        streams: requests in flight.
        prior: what is known of its merge on other processors of this kind, and whether it is tried
            early or late for that; "" if nothing is known, and in older files.
        outcome: what became of it.
        reason: why it fell, in one sentence; "" for the pick.
        hint: what to do about it; "" if nothing.
        export_command: makes the artifact, as words; empty for the baseline, and for what was
            refused before it was made.
        bench_command: measures it, as words; empty for what was refused before it was made.
        artifact_sha256: digest of its file; None if none was made.
        size_bytes: of its file, or of the baseline's tensors.
        build_s: seconds that making its file took; None if it came from the cache of an older
            toolkit, or was not made.
        delivered: element types in which convolutions and matrix products were computed.
        parity: of its outputs against float64 PyTorch; None if it never ran.
        accuracy: on the labeled images; None if there are none, or it never ran.
        gates: what was compared, in the order of the request.
        rounds_ns: nanoseconds of each timed run, by the index of the round; rounds that it was no
            longer in are missing.
        p50_ns: median of one run, a batch; None if it was not timed. So are the others.
        p99_ns: with 99 % confidence, 99 % of runs are no slower; None with too few runs.
        images_per_s: batch times streams over the median.
        ratio: its time for an image (goal ``throughput``) or a run (``latency``) over the pick's:
            estimate and 95 % interval, over the rounds that both were in; None below six of them.
        on_front: no other candidate that met the gates is as good at all that counts (p50, p99,
            images/s, MB and accuracy) and better at some of it.
    """

    name: str
    backend: str
    precision: Precision
    merge_groups: int | Literal["auto"] | None = None
    calibration_method: Literal["minmax", "percentile"] | None = None
    batch: Several
    threads: Several
    streams: Several = 1
    prior: str = ""
    outcome: Outcome
    reason: str = ""
    hint: str = ""
    export_command: tuple[str, ...] = ()
    bench_command: tuple[str, ...] = ()
    artifact_sha256: Sha256 | None = None
    size_bytes: Whole | None = None
    build_s: float | None = None
    delivered: str | None = None
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    gates: tuple[GateRecord, ...] = ()
    rounds_ns: dict[Whole, tuple[Whole, ...]] = {}  # noqa: RUF012  # pydantic copies it
    p50_ns: float | None = None
    p99_ns: Whole | None = None
    images_per_s: float | None = None
    ratio: tuple[float, float, float] | None = None
    on_front: bool = False


class ConfirmationRecord(Strict):
    """The pick measured again in fresh processes, beside another candidate.

    Attributes:
        other: name of the other candidate: the runner-up, or the baseline.
        rounds_ns: nanoseconds of each timed run, of the pick and of the other, by round.
        ratio: time of the other over that of the pick, for an image (goal ``throughput``) or a run
            (``latency``): estimate and 95 % interval; None below six rounds.
        verdict: on the other, against the pick.
        p99_ns: of the pick, as in `CandidateRecord`.
    """

    other: str
    rounds_ns: tuple[tuple[tuple[Whole, ...], tuple[Whole, ...]], ...]
    ratio: tuple[float, float, float] | None
    verdict: Verdict
    p99_ns: Whole | None = None


class TuneRecord(Strict):
    """The fields of `resnext_bench.tune.result.Tuned`, which documents them."""

    format_version: Literal[1] = 1
    created: str
    model: str | None
    weights: WeightsRecord
    goal: Goal
    gates: tuple[GateRecord, ...] = ()
    accuracy_source: str | None = None
    budget_s: float | None = None
    spent_s: float
    seed: int
    threads: Several
    margin: float = Field(ge=0)
    environment: Environment
    complete: bool
    ended: Ended | None = None
    candidates: tuple[CandidateRecord, ...]
    pick: str | None = None
    runner_up: str | None = None
    confirmed: tuple[ConfirmationRecord, ...] = ()
    visits: Whole = 0
    disturbed: Whole = 0
    grid_visits: Whole = 0
    command: tuple[str, ...] = ()
