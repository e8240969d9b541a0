"""What is known of every candidate of a search, by its name: the record while it is made."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from resnext.artifact.manifest import Manifest
from resnext.timing.intervals import log_interval
from resnext_bench.stats import LEAST_SAMPLES, percentile_bound
from resnext_export import recorded_widths

from .gates import KINDS, with_actual
from .known import told
from .recipes import bench_words, export_words, makes_choice
from .record import CandidateRecord, GateRecord
from .request import Request, threads_of
from .space import Point, Refusal, without_backend
from .workshop import Fall, Proof

_NS_PER_MS = 1e6


class Board:
    """Every candidate with its point, in the order in which they were added.

    Args:
        request: what was asked for.
        refusal: what is known against a point before it is built: what cannot be made has no
            commands.
        features: of the processor, in the kernel's names.
    """

    def __init__(
        self,
        request: Request,
        refusal: Callable[[Point], Refusal | None] = lambda _: None,
        features: Collection[str] = (),
    ) -> None:
        self._request, self._refusal, self._features = request, refusal, features
        self.points: dict[str, Point] = {}
        self._records: dict[str, CandidateRecord] = {}

    def __getitem__(self, name: str) -> CandidateRecord:
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def add(self, point: Point) -> str:
        """Add ``point`` as not measured, and return its name."""
        name = point.name
        self.points[name] = point
        refused = (known := self._refusal(point)) is not None and known.outcome == "refused"
        self._records[name] = CandidateRecord(
            name=name,
            backend=point.backend,
            precision=point.precision,
            merge_groups=point.merge,
            calibration_method=point.method,
            batch=point.batch,
            threads=threads_of(point.threads),
            streams=point.streams,
            prior=told(point.prior(self._features), point.merge),
            outcome="baseline" if point.live else "not-measured",
            export_command=() if refused else export_words(point, self._request),
            bench_command=() if refused else bench_words(point, self._request),
        )
        return name

    def built(self, name: str, manifest: Manifest) -> None:
        """Keep what the artifact of a candidate says of itself."""
        point = self.points[name]
        widths = recorded_widths(manifest) if point.merge == "auto" else None
        self.change(
            name,
            artifact_sha256=manifest.file_sha256,
            build_s=manifest.build_s,
            export_command=export_words(point, self._request, widths),
        )

    def makes(self, name: str, words: Sequence[str]) -> bool:
        """Whether ``words`` make the artifact of a candidate: its command, or for a timed choice
        the one with the widths that were chosen.
        """
        by_widths = makes_choice(words, self.points[name], self._request)
        return by_widths or tuple(words) == self[name].export_command

    def put(self, record: CandidateRecord) -> None:
        """Replace the record of a candidate that was added."""
        self._records[record.name] = record

    def change(self, name: str, **fields: Any) -> None:
        """Replace fields of a record."""
        self._records[name] = self._records[name].model_copy(update=fields)

    def fell(self, name: str, fall: Fall) -> None:
        """Settle a candidate. A baseline stays one, with the reason."""
        outcome = "baseline" if self.points[name].live else fall.outcome
        self.change(name, outcome=outcome, reason=fall.reason, hint=without_backend(fall.hint))

    def proven(self, name: str, proof: Proof) -> None:
        """Keep what was proven of a candidate."""
        self.change(
            name,
            delivered=proof.delivered,
            size_bytes=proof.size_bytes,
            parity=proof.parity,
            accuracy=proof.accuracy,
            gates=proof.gates,
        )
        if proof.fall is not None:
            self.fell(name, proof.fall)

    def timed(self, name: str, index: int, times_ns: Sequence[int]) -> None:
        """Keep the times of a round, and derive from all rounds."""
        rounds = {**self._records[name].rounds_ns, index: tuple(times_ns)}
        every = [time for each in rounds.values() for time in each]
        point = self.points[name]
        median = statistics.median(every)
        p99 = proven_ns(every, 99)
        self.change(
            name,
            rounds_ns=rounds,
            p50_ns=median,
            p99_ns=p99,
            images_per_s=point.batch * point.streams / (median / 1e9),
            gates=tuple(_with_times(gate, every) for gate in self._records[name].gates),
        )

    def at_least(self, name: str, gate: str, actual: float) -> None:
        """Keep for a limit on time that it is missed by no less than ``actual``, if the runs so far
        prove nothing sharper.
        """
        self.change(
            name,
            gates=tuple(
                with_actual(each, actual)
                if each.name == gate and (each.actual is None or each.passed)
                else each
                for each in self._records[name].gates
            ),
        )

    def count(self, name: str) -> int:
        """Number of timed runs of a candidate."""
        return sum(map(len, self._records[name].rounds_ns.values()))

    def value(self, name: str, index: int) -> float:
        """What a candidate is compared by in round ``index``: nanoseconds of a run, or for
        throughput of an image.
        """
        point = self.points[name]
        times = self._records[name].rounds_ns[index]
        return max(1.0, statistics.median(times)) / self._request.per(point.batch, point.streams)

    def ratio(self, name: str, pick: str) -> tuple[float, float, float] | None:
        """The time of a candidate over that of ``pick``, with its 95 % interval, over the rounds
        that both have.
        """
        both = self._records[name].rounds_ns.keys() & self._records[pick].rounds_ns.keys()
        ratios = [self.value(name, each) / self.value(pick, each) for each in sorted(both)]
        interval = log_interval(ratios)
        return None if interval is None else (interval.estimate, interval.low, interval.high)

    def records(self) -> Mapping[str, CandidateRecord]:
        """All of them, by name."""
        return dict(self._records)


def _with_times(gate: GateRecord, times_ns: Sequence[int]) -> GateRecord:
    """A limit on time with what the runs so far prove; other gates as they are."""
    kind = KINDS[gate.name]
    if not kind.latency:
        return gate
    if kind.percent == 50:
        return with_actual(gate, statistics.median(times_ns) / _NS_PER_MS)
    bound = proven_ns(times_ns, kind.percent)
    return with_actual(gate, None if bound is None else bound / _NS_PER_MS)


def proven_ns(times_ns: Sequence[int], percent: int) -> int | None:
    """`percentile_bound`, without its library for too few samples."""
    if len(times_ns) < LEAST_SAMPLES[percent]:
        return None
    return percentile_bound(times_ns, percent)
