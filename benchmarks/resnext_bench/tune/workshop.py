"""From a point of the search to an open session that has proven what it computes, before it is
timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.errors import MissingRequirement, ResnextError, SilentFallback
from resnext.images.synthetic import seeded_pixels
from resnext.machine import nvml
from resnext.machine.environment import Environment
from resnext.runtimes.registry import SessionOptions
from resnext.verify.accuracy import Accuracy, accuracy_failures
from resnext.verify.labeled import Labeled
from resnext.verify.parity import Parity, images_to_compare
from resnext.verify.reference import Reference
from resnext_bench.artifacts import Artifacts
from resnext_bench.checks import batch_integrity, delivered, output, threads
from resnext_bench.checks.evidence import Evidence
from resnext_bench.measure import Call, Samples
from resnext_bench.opening import Opening, open_case
from resnext_bench.rows import delivered_of, timed_integrity, timed_parity

from . import amounts
from .gates import KINDS, judged, missed
from .record import GateRecord, Outcome
from .request import Request, threads_of
from .space import BASELINE, Point

#: Rows of a batch whose logits are compared, first and last among them.
_COMPARED_ROWS = 16
#: Share of the memory that has to be free before a session is opened.
_LEAST_FREE = 0.1
#: Reads the GPU after a visit.
GpuState: TypeAlias = Callable[[], "nvml.GpuState | None"]


@dataclass(frozen=True)
class Fall:
    """Why a candidate is out.

    Attributes:
        outcome: of the candidate.
        reason: in a sentence.
        hint: what to do; "" if nothing.
        always: it holds for the artifact, whatever the batch, threads and streams.
    """

    outcome: Outcome
    reason: str
    hint: str = ""
    always: bool = False


@dataclass(frozen=True)
class Proof:
    """What is known of an open candidate before it is timed.

    Attributes:
        delivered: element types of its layers.
        size_bytes: of its file, or of the tensors of a live network.
        parity: of its outputs; None if it never ran.
        accuracy: on the labeled images; None if there are none, or it never ran.
        gates: of the request, those on time still open.
        fall: why it is out; None if it may be timed.
    """

    delivered: str | None = None
    size_bytes: int | None = None
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    gates: tuple[GateRecord, ...] = ()
    fall: Fall | None = None


class Workshop(Protocol):
    """Opens candidates and proves them."""

    def open(self, point: Point, stack: ExitStack) -> Opening:
        """Find or build the artifact of ``point``, open it and bind its input; an error goes into
        the result.
        """

    def prove(self, point: Point, opening: Opening, known: Accuracy | None) -> Proof:
        """Compare what an open candidate computes with the reference, and with the gates.

        Args:
            point: what it is.
            opening: its session.
            known: accuracy of the same artifact on the same runtime, if it was measured before.
        """

    def timed_parity(self, point: Point, opening: Opening, samples: Samples) -> Parity:
        """Parity of the outputs of the last timed run."""


class Bench:
    """The `Workshop` that builds artifacts, or takes them from the cache, and opens them here.

    Args:
        request: weights, gates, images.
        points: of the whole search, the baselines included.
        labeled: labeled images; None if there are none.
        environment: machine and software.
        say: called with one line before each step.
    """

    def __init__(
        self,
        request: Request,
        points: Sequence[Point],
        labeled: Labeled | None,
        environment: Environment,
        say: Callable[[str], None],
    ) -> None:
        self._request, self._labeled, self._environment = request, labeled, environment
        self._say = say
        weights = request.weights
        cases = [point.case for point in points]
        self._artifacts = Artifacts(weights, cases, request.device, say)
        count = images_to_compare(max(request.batches), weights.config.num_classes)
        self._reference = Reference(weights, seeded_pixels(weights.config, count, request.seed))
        self._failed: dict[tuple[str, ...], ResnextError] = {}
        self._graphs: dict[str, Artifact | None] = {}

    def open(self, point: Point, stack: ExitStack) -> Opening:
        """As `Workshop.open`. What could not be built once is not tried again."""
        key = artifact_key(point)
        if key in self._failed:
            return Opening(error=self._failed[key])
        if (short := short_of_memory()) is not None:
            return Opening(error=short)
        options = SessionOptions(
            device=self._request.device,
            memory_format="channels-last" if point.backend == BASELINE else "auto",
        )
        opening = open_case(
            point.case,
            point.candidate(self._request),
            self._artifacts,
            self._reference,
            options,
            stack,
            self._say,
        )
        if opening.error is not None and opening.artifact is None:
            self._failed[key] = opening.error
        self._graphs[point.name] = opening.graph
        return opening

    def prove(self, point: Point, opening: Opening, known: Accuracy | None) -> Proof:
        """As `Workshop.prove`."""
        assert opening.subject is not None
        session, manifest = opening.subject.session, None
        if opening.artifact is not None:
            manifest = opening.artifact.manifest
            if manifest.merged is not None and not manifest.merged.groups:
                reason = "no merge is faster here: it is the graph with its groups as they are"
                return Proof(fall=Fall("refused", reason, always=True))
        numerics = point.precision if manifest is None else manifest.numerics
        self._say(f"comparing {point.name} with PyTorch in float64")
        samples = _run_once(opening)
        seen = delivered_of(session)
        parity = self.timed_parity(point, opening, samples)
        quantization = None if manifest is None else manifest.quantization
        evidence = Evidence(
            samples,
            (),
            parity,
            seen,
            self._request.weights.config,
            numerics,
            skipped=frozenset() if manifest is None else manifest.left,
            scheme=None if quantization is None else quantization.runtime,
            integrity=timed_integrity(numerics, opening, samples),
            threads=threads_of(point.threads),
        )
        size = session.model_size_bytes if manifest is None else manifest.file_size_bytes
        fall = next(_falls(evidence), None)
        accuracy = None
        # A live network is what the answers are compared with.
        if fall is None and self._labeled is not None and not point.live:
            accuracy = known
            if accuracy is None:
                self._say(f"labeled images of {point.name}")
                accuracy = self._labeled.measure(
                    session, point.batch, opening.artifact, self._environment
                )
        gates = judged(
            self._request.gates,
            accuracy=accuracy,
            size_bytes=size,
            memory_bytes=opening.peak.host_bytes,
        )
        if fall is None and not point.live:
            fall = fall_by_gate(gates, accuracy)
        return Proof(seen.summary(), size, parity, accuracy, gates, fall)

    def timed_parity(self, point: Point, opening: Opening, samples: Samples) -> Parity:
        """As `Workshop.timed_parity`."""
        manifest = None if opening.artifact is None else opening.artifact.manifest
        numerics = point.precision if manifest is None else manifest.numerics
        return timed_parity(self._reference, point.batch, numerics, opening, samples)

    def parity_of(self, point: Point, artifact: Artifact | None, logits: NDArray[Any]) -> Parity:
        """Parity of ``logits`` for all `images`, the batch first.

        Args:
            point: whose they are.
            artifact: what it ran; None for the baseline.
            logits: N x classes.
        """
        reference = self._reference
        manifest = None if artifact is None else artifact.manifest
        complete = logits.shape[:1] == (reference.count,)
        spread = np.unique(np.linspace(0, point.batch - 1, _COMPARED_ROWS).astype(int)).tolist()
        rows = [*spread, *range(point.batch, reference.count)]
        return reference.parity(
            logits[rows] if complete else logits,
            point.precision if manifest is None else manifest.numerics,
            artifact,
            graph=self._graphs.get(point.name),
            dtype="float32" if manifest is None else manifest.outputs[0].dtype,
            rows=rows,
        )

    @property
    def images(self) -> int:
        """Number of seeded images."""
        return self._reference.count


def short_of_memory() -> MissingRequirement | None:
    """Why no further session is opened beside those that wait for the race; None if there is
    room: a machine that runs out of memory kills the search.
    """
    import psutil

    memory = psutil.virtual_memory()
    if memory.available >= _LEAST_FREE * memory.total:
        return None
    return MissingRequirement(
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB of memory are left beside the"
        " sessions that wait for the race",
        hint="try fewer `batch` sizes, `streams` or `backend`s at once",
    )


def artifact_key(point: Point) -> tuple[str, ...]:
    """What the artifact of ``point`` depends on: an engine's and a timed choice's on more than its
    variant.
    """
    kind_batch = str(point.batch) if point.merge == "auto" or point.backend == "pt2" else ""
    return (point.backend, point.variant, kind_batch)


def fall_of_error(error: ResnextError) -> Fall:
    """What becomes of a candidate that could not be opened."""
    refused = isinstance(error, SilentFallback)
    return Fall("refused" if refused else "failed", error.message, error.hint, always=refused)


def _run_once(opening: Opening) -> Samples:
    """The outputs of one run of each stream, and of the bound input."""
    assert opening.subject is not None
    session, bound = opening.subject.session, opening.subject.bound
    name = session.outputs[0].name
    outputs = []
    for stream in session.streams():
        call = Call(stream, opening.subject.inputs)
        call()
        outputs.append(call.last[name])
    samples = Samples(output=outputs[0], other_outputs=tuple(outputs[1:]))
    if bound.cuda_stream is not None:
        samples.bound_output = bound.fetch()[name]
    return samples


def _falls(evidence: Evidence) -> Iterator[Fall]:
    """What a row of a benchmark would be invalid for."""
    for check in (delivered, threads):
        for finding in check.findings(evidence):
            if finding.severity == "refused":
                always = check is delivered
                yield Fall("refused", finding.message, finding.hint, always=always)
    for check in (output, batch_integrity):
        for finding in check.findings(evidence):
            yield Fall("gate", finding.message, finding.hint)


def fall_by_gate(gates: Sequence[GateRecord], accuracy: Accuracy | None) -> Fall | None:
    """The first gate that is missed of those that need no times."""
    if accuracy is not None:
        # Whatever the user's limits: NaN, and labels that are not this network's.
        for failure in accuracy_failures(accuracy, max_top1_loss=1.0, min_agreement=0.0):
            return Fall("gate", failure, always=True)
    gate = missed(gates, latency=False)
    if gate is None:
        return None
    hint = "calibrate on more or other images, or use a wider `precision`"
    labeled = KINDS[gate.name].labeled
    return Fall("gate", amounts.gate(gate), hint if labeled else "", always=gate.name != "memory")
