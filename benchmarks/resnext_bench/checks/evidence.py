"""What the checks look at."""

from __future__ import annotations

from dataclasses import dataclass

from resnext.network.config import ResNeXtConfig
from resnext.runtimes.session import Delivered
from resnext.verify.accuracy import Accuracy
from resnext.verify.parity import Parity
from resnext_bench.measure import Samples
from resnext_bench.stats import Timing


@dataclass(frozen=True)
class Evidence:
    """Everything that is known about a measured row.

    Attributes:
        samples: what was measured.
        timings: by boundary, as the row stores them.
        parity: of the outputs of the timed runs; None if they were not compared.
        delivered: element types that the layers got.
        config: the network.
        numerics: requested, as `Manifest.numerics` has it.
        skipped: modules that were never meant to have that precision.
        scheme: the runtime that a quantized graph was made for; None for any other.
        accuracy: on labelled images; None if none were run.
        accuracy_missing: why they were not, although they were requested.
    """

    samples: Samples
    timings: tuple[Timing, ...]
    parity: Parity | None
    delivered: Delivered
    config: ResNeXtConfig
    numerics: str
    skipped: frozenset[str] = frozenset()
    scheme: str | None = None
    accuracy: Accuracy | None = None
    accuracy_missing: str = ""
