"""The input of the checks."""

from __future__ import annotations

from dataclasses import dataclass, field

from resnext.findings import Finding
from resnext.network.config import ResNeXtConfig
from resnext.runtimes.session import Delivered
from resnext.verify.accuracy import Accuracy
from resnext.verify.batches.laws import Integrity
from resnext.verify.parity import Parity
from resnext_bench.limits.distance import Distance
from resnext_bench.measure import Samples
from resnext_bench.scenarios.scenario import Passes
from resnext_bench.served import ServedRecord
from resnext_bench.stats import Timing


@dataclass(frozen=True)
class Evidence:
    """Everything known about a measured row.

    Attributes:
        samples: raw times.
        timings: by boundary, as the row stores them.
        parity: of the outputs of the timed runs; None if they were not compared.
        delivered: element types of the layers.
        config: the network; None if it is not known.
        numerics: requested, as in `Manifest.numerics`.
        skipped: modules that the artifact leaves at a wider type.
        scheme: runtime of a quantized graph's Q/DQ scheme; None for any other graph.
        accuracy: on labeled images; None if none were run.
        accuracy_missing: why requested accuracy is missing; empty otherwise.
        integrity: of the rows of the timed batch; None if they were not compared.
        caveats: warnings about the artifact itself.
        planned_rounds: minimum number of undisturbed rounds that the plan asked for.
        precision: requested, as in `Plan.precision`.
        threads: CPU threads that the session was given; None if unknown.
        distance: from the limit; None if the machine's ceilings are unknown.
        passes: outcome of the scenarios.
        served: of a served model, what its server says and counted; else None.
    """

    samples: Samples
    timings: tuple[Timing, ...]
    parity: Parity | None
    delivered: Delivered
    config: ResNeXtConfig | None
    numerics: str
    skipped: frozenset[str] = frozenset()
    scheme: str | None = None
    accuracy: Accuracy | None = None
    accuracy_missing: str = ""
    integrity: Integrity | None = None
    caveats: tuple[Finding, ...] = ()
    planned_rounds: int = 1
    precision: float | None = None
    threads: int | None = None
    distance: Distance | None = None
    passes: Passes = field(default_factory=Passes)
    served: ServedRecord | None = None
