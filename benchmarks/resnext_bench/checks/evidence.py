"""What the checks look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from resnext.network.config import ResNeXtConfig
from resnext.runtimes.session import Delivered
from resnext.verify.accuracy import Accuracy
from resnext.verify.parity import Parity
from resnext_bench.measure import Samples
from resnext_bench.stats import Stats, derive


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a measured row.

    Attributes:
        samples: raw times.
        batch: images in one run.
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
    batch: int
    parity: Parity | None
    delivered: Delivered
    config: ResNeXtConfig
    numerics: str
    skipped: frozenset[str] = frozenset()
    scheme: str | None = None
    accuracy: Accuracy | None = None
    accuracy_missing: str = ""

    def timings(self) -> Iterator[tuple[str, Stats]]:
        """Boundary and statistics of the host's times, and of the device's if there are any."""
        rounds: list[tuple[str, Sequence[Sequence[int]]]] = [("host", self.samples.host_ns)]
        if self.samples.device_ns:
            rounds.append((str(self.samples.device_boundary), self.samples.device_ns))
        for boundary, rounds_ns in rounds:
            yield boundary, derive(rounds_ns, self.batch)
