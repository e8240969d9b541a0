"""The points of a search: every combination that this machine offers, in the order of their cost,
and what is refused before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, TypeAlias

from resnext.errors import MissingRequirement, UsageError
from resnext.findings import Finding
from resnext.precision import QUANTIZED, Precision
from resnext.runtimes.availability import available, available_runtimes
from resnext.runtimes.deliverable import not_delivered
from resnext.runtimes.registry import RUNTIMES, SessionOptions, check_precision, check_streams
from resnext_bench.cases import Candidate, Merge, merge_problem
from resnext_bench.limits.floors import floors
from resnext_bench.limits.needed import Limits
from resnext_bench.plan import Case, in_flight

from .gates import KINDS, with_actual
from .record import GateRecord, Outcome
from .request import Request, threads_of

Method: TypeAlias = Literal["minmax", "entropy", "percentile"]

#: Eager PyTorch in channels-last, beside which everything is timed.
BASELINE = "torch"
#: How activation outliers are handled: the first is tried at once, the others only if it does not
#: do: they change accuracy, and not speed.
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
#: Minimum width of groups where nothing times it: what fills the registers of every processor and
#: GPU that the toolkit was measured on.
WIDTH = 32


@dataclass(frozen=True)
class Point:
    """One point of a search: an artifact, and how it is run.

    Attributes:
        backend: registry name.
        precision: of weights and activations.
        merge: minimum channels of a group, ``auto``, or None.
        method: calibration method of a quantized artifact; None for others.
        batch: images in one run.
        threads: CPU threads; None means the thread budget.
        streams: requests in flight.
    """

    backend: str
    precision: Precision = "fp32"
    merge: Merge = None
    method: Method | None = None
    batch: int = 1
    threads: int | None = None
    streams: int = 1

    @property
    def variant(self) -> str:
        """What is built: a name for the artifact within one backend."""
        parts = [self.precision, *([] if self.merge is None else [f"merged {self.merge}"])]
        return " ".join(parts + ([self.method] if self.method not in (None, METHODS[0]) else []))

    @property
    def name(self) -> str:
        """Unique in a search: ``openvino int8 merged auto, 2 streams, batch 8``."""
        parts = [f"{self.backend} {self.variant}", in_flight(self.threads, self.streams)]
        return ", ".join([*filter(None, parts), f"batch {self.batch}"])

    @property
    def case(self) -> Case:
        """As a benchmark knows it."""
        return Case(self.backend, self.batch, self.variant, self.threads, self.streams)

    @property
    def live(self) -> bool:
        """It is the baseline, of which there is no artifact."""
        return RUNTIMES[self.backend].live

    def candidate(self, request: Request) -> Candidate:
        """As a benchmark knows it."""
        quantized = self.precision in QUANTIZED
        return Candidate(
            self.precision,
            calibration=(request.calibration, request.calibration_images)
            if quantized
            else (None, None),
            merge=self.merge,
            method=None if self.method == METHODS[0] else self.method,
        )

    def build_cost(self) -> int:
        """How long its artifact takes, as a rank: 0 plain ONNX, 1 a half precision, 2 a
        quantized graph, 3 more if the groups' widths are timed, 6 more for an engine or package,
        which a compiler makes.
        """
        kind = RUNTIMES[self.backend].formats[0]
        cost = {"fp32": 0, "fp16": 1, "bf16": 1}.get(self.precision, 2)
        if self.merge is not None:
            cost += 3 if self.merge == "auto" else 1
        return cost + (0 if kind == "onnx" else 6)


@dataclass(frozen=True)
class Refusal:
    """Why a point is not even built.

    Attributes:
        reason: in a sentence.
        hint: what to do; "" if nothing.
        outcome: of the candidate.
        gates: those of the request, with what is known, if it is a gate.
    """

    reason: str
    hint: str = ""
    outcome: Outcome = "refused"
    gates: tuple[GateRecord, ...] = ()


def backends_of(request: Request) -> tuple[str, ...]:
    """The runtimes of a search.

    Raises:
        MissingRequirement: none of those that were asked for works here, or there is none at all.
    """
    if request.backends is None:
        found = available_runtimes(request.device)
        names = tuple(name for name in found if not RUNTIMES[name].live)
        if not names:
            raise MissingRequirement(
                "no runtime here runs an artifact",
                hint="resnext-export doctor shows what is missing",
            )
        return names
    problems = {name: available(name, request.device) for name in request.backends}
    if all(problems.values()):
        texts = [
            f"{name}: {problem.message}"
            for name, problem in problems.items()
            if problem is not None
        ]
        hints = dict.fromkeys(problem.hint for problem in problems.values() if problem is not None)
        raise MissingRequirement("; ".join(texts), hint="; ".join(filter(None, hints)))
    return request.backends


def baselines(request: Request) -> tuple[Point, ...]:
    """Eager PyTorch at every batch size and number of threads."""
    return tuple(
        Point(BASELINE, batch=batch, threads=threads)
        for batch, threads in product(request.batches, request.threads)
    )


def points(request: Request, backends: tuple[str, ...]) -> tuple[Point, ...]:
    """Every point, cheapest build first.

    The first batch size, number of threads and streams of every artifact comes before the others:
    when time is short, many artifacts at one setting say more than one artifact at many.
    """
    found = []
    settings = list(product(request.batches, request.threads, request.streams))
    for place, (batch, threads, streams) in enumerate(settings):
        at_setting = [
            Point(backend, precision, merge, method, batch, threads, streams)
            for backend in backends
            for precision in request.precisions
            for merge in merges_of(backend)
            for method in ((METHODS[0] if precision in QUANTIZED else None),)
        ]
        found += [(place, point) for point in at_setting]
    ordered = sorted(found, key=lambda each: (each[0], each[1].build_cost()))
    return tuple(point for _, point in ordered)


def merges_of(backend: str) -> tuple[Merge, ...]:
    """Widths of groups to try on ``backend``: as they are, and what it takes."""
    return (None, WIDTH if merge_problem(backend, "auto") is not None else "auto")


def with_method(point: Point, method: Method) -> Point:
    """``point`` with its ranges from another calibration method."""
    return replace(point, method=method)


def static_refusals(request: Request, limits: Limits) -> Callable[[Point], Refusal | None]:
    """What is known against a point before anything is built.

    Args:
        request: gates and images.
        limits: ceilings of this machine; without them, no floor is known.
    """
    missing: dict[str, Finding | None] = {}

    def refusal(point: Point) -> Refusal | None:
        if point.backend not in missing:
            missing[point.backend] = available(point.backend, request.device)
        return next(_reasons(point, request, missing[point.backend], limits), None)

    return refusal


def _reasons(
    point: Point, request: Request, missing: Finding | None, limits: Limits
) -> Iterator[Refusal]:
    if missing is not None:
        yield Refusal(missing.message, missing.hint)
    try:
        check_precision(point.backend, point.precision)
    except UsageError as exc:
        yield Refusal(exc.message, exc.hint)
    if (problem := merge_problem(point.backend, point.merge)) is not None:
        yield Refusal(problem)
    if (finding := not_delivered(point.backend, point.precision)) is not None:
        yield Refusal(finding.message, finding.hint)
    quantized = point.precision in QUANTIZED
    if quantized and request.calibration is None and not request.shipped:
        yield Refusal(
            f"{point.precision} needs images to calibrate on, and none were named",
            "name a folder with pictures as the network will see them in `calibration`",
        )
    threads = threads_of(point.threads)
    try:
        check_streams(
            point.backend,
            SessionOptions(device=request.device, threads=threads, streams=point.streams),
        )
    except UsageError as exc:
        yield Refusal(exc.message, exc.hint)
    yield from _below_floor(point, request, threads, limits)


def _below_floor(point: Point, request: Request, threads: int, limits: Limits) -> Iterator[Refusal]:
    """A limit on time that this machine cannot keep at all."""
    device = RUNTIMES[point.backend].device
    ceilings = limits.of(
        "cpu" if device != "cuda" and request.device != "cuda" else device, threads
    )
    if ceilings is None:
        return
    ceiling = ceilings.ceiling(point.precision)
    least_ms = 1000 * floors(request.weights.config, point.precision, point.batch, ceiling).blocks_s
    for gate in request.gates:
        if KINDS[gate.name].latency and least_ms > gate.allowed:
            yield Refusal(
                f"one run of {point.batch} takes {least_ms:.3g} ms even at this machine's limit,"
                f" and {gate.name} may be {gate.allowed:g} ms",
                "use a smaller `batch`",
                "gate",
                tuple(
                    with_actual(each, least_ms) if KINDS[each.name].latency else each
                    for each in request.gates
                ),
            )
