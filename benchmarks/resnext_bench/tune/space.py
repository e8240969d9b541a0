"""The points of a search: every combination that this machine offers, in the order of their cost,
and what is refused before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import get_args

from resnext.errors import MissingRequirement, ResnextError, UsageError
from resnext.findings import Finding
from resnext.images.sources import image_source
from resnext.precision import QUANTIZED, Precision
from resnext.runtimes.availability import available, available_runtimes
from resnext.runtimes.deliverable import not_delivered
from resnext.runtimes.registry import (
    RUNTIMES,
    Device,
    SessionOptions,
    check_precision,
    check_streams,
)
from resnext_bench.cases import Candidate, Merge, Method, merge_problem
from resnext_bench.limits.floors import floors
from resnext_bench.limits.needed import Limits
from resnext_bench.merge_priors import Prior, prior_of
from resnext_bench.plan import Case, in_flight

from .gates import KINDS, with_actual
from .known import ranks_back
from .record import GateRecord, Outcome
from .request import Request, threads_of

#: Eager PyTorch in channels-last, beside which everything is timed.
BASELINE = "torch"
#: How activation outliers are handled: the first is tried at once, the others only if it does not
#: do: they change accuracy, and not speed.
METHODS: tuple[Method, ...] = get_args(Method)
#: Advice to use another runtime, alone or as the last of several.
_OTHER_BACKEND = re.compile(r"(?:^|,? or |; )(?:to run, )?(?:use )?`backend` [^;]*")
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

    def prior(self, features: Collection[str]) -> Prior | None:
        """What merging groups gained on other processors with ``features``; None if nothing is
        known.
        """
        return prior_of(features, self.backend, self.precision)

    def build_cost(self) -> int:
        """How long its artifact takes, as a rank: 0 plain ONNX, 1 a half precision, 2 a
        quantized graph; 3 to 5 if the groups' widths are timed, the narrower the precision the
        sooner, since the network runs for that; 6 more for an engine or package, which a compiler
        makes.
        """
        kind = RUNTIMES[self.backend].formats[0]
        cost = {"fp32": 0, "fp16": 1, "bf16": 1}.get(self.precision, 2)
        if self.merge is not None:
            cost = 5 - cost if self.merge == "auto" else cost + 1
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
        names = _artifact_runtimes(request.device)
        if not names:
            raise MissingRequirement(
                "no runtime here runs an artifact",
                hint="install onnxruntime or openvino",
            )
        return names
    answers = [available(name, request.device) for name in request.backends]
    problems = [each for each in answers if each is not None]
    if len(problems) == len(answers):
        texts = dict.fromkeys(each.message for each in problems)
        hints = dict.fromkeys(_hints(problems, _artifact_runtimes(request.device)))
        raise MissingRequirement(
            f"none of {', '.join(request.backends)} works here: {'; '.join(texts)}",
            hint="; ".join(hints),
        )
    return request.backends


def without_backend(hint: str) -> str:
    """``hint`` without the advice to use another runtime: a search tries them all."""
    return _OTHER_BACKEND.sub("", hint)


def _artifact_runtimes(device: Device) -> tuple[str, ...]:
    return tuple(name for name in available_runtimes(device) if not RUNTIMES[name].live)


def _hints(problems: Sequence[Finding], working: Sequence[str]) -> Iterator[str]:
    """What to do about ``problems``. The runtimes that they name may run no artifacts."""
    for each in problems:
        for part in filter(None, each.hint.split("; ")):
            if not (working and "`backend`" in part):
                yield part
    if working:
        yield f"here, `backend` can be {', '.join(working)}"


def check_calibration(request: Request) -> bool:
    """Refuse calibration images that were named and cannot be used; False if some are needed, and
    there are none.

    Raises:
        ResnextError: there are none, or not as many as were asked for.
    """
    quantized = any(precision in QUANTIZED for precision in request.precisions)
    if request.calibration is not None and quantized:
        _calibration_images(request.calibration, request)
    return not quantized or request.shipped or request.calibration is not None


def _calibration_images(spec: str, request: Request) -> None:
    count = request.calibration_images or 1
    image_source(spec, request.weights.preprocessing, split="calibration", limit=count)


def baselines(request: Request) -> tuple[Point, ...]:
    """Eager PyTorch at every batch size and number of threads."""
    return tuple(
        Point(BASELINE, batch=batch, threads=threads)
        for batch, threads in product(request.batches, request.threads)
    )


def points(
    request: Request,
    backends: Sequence[str],
    refusal: Callable[[Point], Refusal | None] = lambda _: None,
    features: Collection[str] = (),
) -> tuple[Point, ...]:
    """Every point, cheapest first: by `Point.build_cost`, and one more for each batch size, number
    of threads and of streams after the first, since a further setting takes no build, but time to
    prove. A width that was faster on another processor of this kind comes right after the unmerged
    network, and merges come late where none was (`resnext_bench.merge_priors`).

    What is refused at the first setting is there once, and not at the others. A number of streams
    that a runtime cannot have is left out, unless it can have none of them.

    Args:
        request: precisions and settings.
        backends: names of runtimes.
        refusal: what is known against a point.
        features: of the processor, in the kernel's names.
    """
    found: list[tuple[int, Point]] = []
    for backend in backends:
        streams = [each for each in request.streams if _can_stream(backend, each, request)]
        settings = list(product(request.batches, request.threads, streams or request.streams))
        for precision in request.precisions:
            method = METHODS[0] if precision in QUANTIZED else None
            for merge in merges_of(backend, precision, features):
                variant = [
                    (place, Point(backend, precision, merge, method, *setting))
                    for place, setting in enumerate(settings)
                ]
                if (refused := refusal(variant[0][1])) is not None and refused.outcome == "refused":
                    found.append(variant[0])
                    if merge is None:
                        break  # what is not run unmerged is not run merged
                else:
                    found += variant
    ordered = sorted(
        found,
        key=lambda each: (
            each[0] + each[1].build_cost() + ranks_back(each[1].prior(features), each[1].merge)
        ),
    )
    return tuple(point for _, point in ordered)


def _can_stream(backend: str, streams: int, request: Request) -> bool:
    options = [
        SessionOptions(device=request.device, threads=threads_of(threads), streams=streams)
        for threads in request.threads
    ]
    try:
        for each in options:
            check_streams(backend, each)
    except UsageError:
        return False
    return True


def merges_of(
    backend: str, precision: Precision = "fp32", features: Collection[str] = ()
) -> tuple[Merge, ...]:
    """Widths of groups to try on ``backend``: as they are, what was faster on another processor of
    this kind, and what it takes.
    """
    prior = prior_of(features, backend, precision)
    paid = () if prior is None or prior.width is None else (prior.width,)
    return (None, *paid, WIDTH if merge_problem(backend, "auto") is not None else "auto")


def with_method(point: Point, method: Method) -> Point:
    """``point`` with its ranges from another calibration method."""
    return replace(point, method=method)


def static_refusals(request: Request, limits: Limits) -> Callable[[Point], Refusal | None]:
    """What is known against a point before anything is built.

    Args:
        request: gates and images.
        limits: ceilings of this machine; without them, no floor is known.
    """
    known = _Known(request, limits)
    return lambda point: next(_reasons(point, known), None)


@dataclass(frozen=True)
class _Known:
    """What is found out once."""

    request: Request
    limits: Limits
    _missing: dict[str, Finding | None] = field(default_factory=dict)

    def missing(self, backend: str) -> Finding | None:
        """Why a runtime does not work here."""
        if backend not in self._missing:
            self._missing[backend] = available(backend, self.request.device)
        return self._missing[backend]

    @cached_property
    def no_images(self) -> ResnextError | None:
        """Why there are no images to calibrate on."""
        request = self.request
        if request.calibration is None and not request.shipped:
            return UsageError(
                "int8 and fp8 need images to calibrate on, and none were named",
                hint="name a folder with pictures as the network will see them in `calibration`",
            )
        try:
            _calibration_images(request.calibration or request.weights.source, request)
        except ResnextError as exc:
            return exc
        return None


def _reasons(point: Point, known: _Known) -> Iterator[Refusal]:
    request = known.request
    if (missing := known.missing(point.backend)) is not None:
        yield Refusal(missing.message, missing.hint)
    threads = threads_of(point.threads)
    options = SessionOptions(device=request.device, threads=threads, streams=point.streams)
    try:
        check_precision(point.backend, point.precision)
        check_streams(point.backend, options)
    except UsageError as exc:
        yield Refusal(exc.message, exc.hint)
    if (problem := merge_problem(point.backend, point.merge)) is not None:
        yield Refusal(problem)
    if (finding := not_delivered(point.backend, point.precision)) is not None:
        yield Refusal(finding.message, finding.hint)
    if point.precision in QUANTIZED and (no_images := known.no_images) is not None:
        yield Refusal(no_images.message, no_images.hint)
    yield from _below_floor(point, request, threads, known.limits)


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
