"""The laws of batch integrity, and the record of which hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.specs import Strict
from resnext.findings import Finding

#: Every law by its name, with its statement. A finding's code is ``batch-`` and the name.
LAWS: Mapping[str, str] = MappingProxyType(
    {
        "range": "every batch size in the range runs, and none past it",
        "finite": "logits are finite, and not all zero",
        "repeat": "the same batch twice gives the same logits",
        "size": "a row has the logits that its image has in the smallest batch",
        "identical": "identical rows have identical logits",
        "permuted": "permuted rows have permuted logits",
        "neighbor": "other images in the other rows change nothing",
        "padding": "filling up a batch with zeros changes nothing",
        "stale": "a batch gives the same logits after other batches",
        "bound": "bound inputs give what a run gives, whatever else runs or is bound",
        "mixed": "a row has the logits that its image has alone, whatever other clients send",
        "timed": "the timed runs gave the logits of an untimed run",
    }
)

#: A few roundings of a float32 logit: the limit if the same kernels compute the same row twice.
_EXACT = 4 * float(np.finfo(np.float32).eps)
#: Limits over measured noise, which is a maximum over a few images only.
_MARGIN = 4.0
#: The limit for rounding is between these shares of the precision's parity gate.
_LEAST_SHARE, _MOST_SHARE = 1 / 20, 1 / 2
#: A row is another image's if that is nearer by this factor.
_NEARER = 4.0

Logits: TypeAlias = NDArray[np.float64]


class Law(Strict):
    """The outcome of one law.

    Attributes:
        law: key of `LAWS`.
        batches: batch sizes at which it was examined.
        worst: largest difference, relative to the RMS of the logits; None if none was measured.
        batch: batch size with that difference, or the first that failed otherwise.
        row: row with that difference.
        limit: allowed difference; None if nothing was compared.
        failed: batch sizes at which the law is broken.
        failure: what is wrong, in one line; "" if the law holds.
        refused: of ``batches``, those past the artifact's range, which its session refused.
    """

    law: str
    batches: tuple[int, ...]
    worst: float | None
    batch: int | None
    row: int | None
    limit: float | None
    failed: tuple[int, ...]
    failure: str
    refused: tuple[int, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the law holds."""
        return not self.failure

    @property
    def drifts(self) -> bool:
        """Whether there is a difference that rounding explains."""
        return self.passed and bool(self.worst)


class Integrity(Strict):
    """The outcome of a check of batch integrity.

    Attributes:
        passed: every law holds.
        failures: one line for each broken law.
        laws: the examined laws.
        backend: runtime that ran the batches.
        quick: only the cheap half was examined.
        rounding: how far logits move if operations round differently, relative to their RMS; None
            if that was not measured.
        noise: largest difference between two runs of the same batch in succession.
        contrast: smallest difference between the logits of two test images.
        artifact_sha256: digest of the file that ran, or None for a live model.
    """

    passed: bool
    failures: tuple[str, ...]
    laws: tuple[Law, ...]
    backend: str
    quick: bool
    rounding: float | None
    noise: float
    contrast: float | None
    artifact_sha256: str | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One for each broken law; its code is ``batch-`` and the law's name."""
        return tuple(Finding(f"batch-{law.law}", law.failure) for law in self.laws if law.failure)


class Ledger:
    """Compares logits, law by law.

    Args:
        gate: largest error that parity allows for the precision, relative to RMS.

    Attributes:
        base: logits of each image in the smallest batch.
        rounding: how far logits move if operations round differently, relative to their RMS; None
            if that was not measured.
        noise: largest difference between two runs of the same batch in succession.
    """

    def __init__(self, gate: float) -> None:
        self._gate, self._rms = gate, 1.0
        self._tallies: dict[str, _Tally] = {}
        self.base: Logits = np.empty((0, 0))
        self.rounding: float | None = None
        self.noise = 0.0
        self._measure: Callable[[], float | None] | None = None

    def begin(self, base: Logits) -> bool:
        """Take ``base`` as the logits to compare with; False if they are all zero."""
        self.base = base
        rms = float(np.sqrt(np.mean(np.nan_to_num(base, nan=0, posinf=0, neginf=0) ** 2)))
        self._rms = rms or 1.0
        return rms > 0

    def postpone(self, measure: Callable[[], float | None]) -> None:
        """Take ``measure``'s rounding as soon as a difference depends on it."""
        self._measure = measure

    def difference(self, logits: Logits) -> float:
        """Largest difference to the base, relative to RMS."""
        return self._worst(logits, self.base)[0]

    @property
    def rounding_limit(self) -> float:
        """Allowed difference if other kernels may compute a row."""
        least, most = self._gate * _LEAST_SHARE, self._gate * _MOST_SHARE
        if self._measure is not None:
            return least
        if self.rounding is None:
            return most
        return min(most, max(least, _MARGIN * self.rounding))

    @property
    def exact_limit(self) -> float:
        """Allowed difference if the same kernels compute a row in the same place: none, except for
        the session's noise.
        """
        return min(self.rounding_limit, max(_EXACT, _MARGIN * self.noise))

    def examined(self, law: str, size: int) -> None:
        """Record that ``law`` was examined at a batch size."""
        self._tallies.setdefault(law, _Tally()).batches.add(size)

    def refused(self, size: int) -> None:
        """Record that the session refused a batch size past the range, as law ``range`` says."""
        self.examined("range", size)
        self._tallies["range"].refused.add(size)

    def fail(self, law: str, size: int, failure: str) -> None:
        """Record that ``law`` is broken at a batch size; only the first failure is described."""
        self.examined(law, size)
        tally = self._tallies[law]
        tally.failure = tally.failure or failure
        tally.failed.append(size)

    def compare(
        self,
        law: str,
        got: Logits,
        want: Logits,
        *,
        exact: bool = False,
        rows: NDArray[Any] | None = None,
        among: Logits | None = None,
    ) -> None:
        """Hold the logits of a batch against what they should be.

        Args:
            law: key of `LAWS`.
            got: logits of a batch.
            want: the same, as they should be.
            exact: the same kernels compute the same rows in the same places.
            rows: the rows that count; None means all.
            among: the rows of ``want``, and others that a row may be mistaken for.
        """
        size = len(got)
        self.examined(law, size)
        tally = self._tallies[law]
        if got.shape != want.shape:
            self.fail(law, size, f"batch {size} gives shape {got.shape}, want {want.shape}")
            return
        rows = np.arange(size) if rows is None else rows
        worst, at = self._worst(got[rows], want[rows])
        row = int(rows[at])
        if law == "repeat":
            self.noise = max(self.noise, worst)
        limit = self._limit(worst, exact=exact)
        tally.limit = max(tally.limit, limit)
        if tally.worst is None or worst > tally.worst:
            tally.worst, tally.at = worst, (size, row)
        mistaken = None
        if among is not None and worst > self.exact_limit:
            mistaken = _mistaken(got, want, among)
        if mistaken is not None:
            self.fail(law, size, f"batch {size}, row {mistaken} has the logits of another image")
        elif worst > limit:
            self.fail(
                law,
                size,
                f"batch {size}, row {row} is off by {worst:.1e} of the logits' RMS, allowed"
                f" {limit:.1e}",
            )

    def outcome(self, *, backend: str, quick: bool, artifact_sha256: str | None) -> Integrity:
        """The record."""
        laws = tuple(
            self._tallies[name].law(name, statement)
            for name, statement in LAWS.items()
            if name in self._tallies
        )
        failures = tuple(law.failure for law in laws if law.failure)
        return Integrity(
            passed=not failures,
            failures=failures,
            laws=laws,
            backend=backend,
            quick=quick,
            rounding=self.rounding,
            noise=self.noise,
            contrast=self._contrast(),
            artifact_sha256=artifact_sha256,
        )

    def _limit(self, worst: float, *, exact: bool) -> float:
        """What ``worst`` may be. Rounding is measured now if that decides."""
        limit = self.exact_limit if exact else self.rounding_limit
        if worst > limit and self._measure is not None:
            measure, self._measure = self._measure, None
            self.rounding = measure()
            limit = self.exact_limit if exact else self.rounding_limit
        return limit

    def _worst(self, got: Logits, want: Logits) -> tuple[float, int]:
        """Largest difference relative to RMS, and its row. NaN and infinity are the law
        ``finite``'s.
        """
        with np.errstate(invalid="ignore"):
            difference = np.abs(got - want)
        by_row = np.where(np.isfinite(difference), difference, 0.0).max(axis=1)
        row = int(by_row.argmax())
        return float(by_row[row]) / self._rms, row

    def _contrast(self) -> float | None:
        pairs = [
            self._worst(self.base[i : i + 1], self.base[j : j + 1])[0]
            for i in range(len(self.base))
            for j in range(i)
        ]
        return min(pairs, default=None)


@dataclass
class _Tally:
    """What is known of one law: limit, batch sizes, largest difference and its batch and row."""

    limit: float = 0.0
    batches: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    worst: float | None = None
    at: tuple[int, int] | None = None
    failed: list[int] = field(default_factory=list)
    failure: str = ""

    def law(self, name: str, statement: str) -> Law:
        """The record."""
        failure = ""
        if self.failed:
            others = sorted({*self.failed} - {self.failed[0]})
            more = f" (also at batch {spans(others)})" if others else ""
            failure = f"{name}: {self.failure}{more}; the law is: {statement}"
        return Law(
            law=name,
            batches=tuple(sorted(self.batches)),
            worst=self.worst,
            batch=self.at and self.at[0],
            row=self.at and self.at[1],
            limit=None if self.worst is None else self.limit,
            failed=tuple(sorted({*self.failed})),
            failure=failure,
            refused=tuple(sorted(self.refused)),
        )


def spans(sizes: Sequence[int]) -> str:
    """Sizes in ascending order, for example ``1-3,7,8``."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and size == runs[-1][-1] + 1:
            runs[-1].append(size)
        else:
            runs.append([size])
    return ",".join(
        f"{span[0]}-{span[-1]}" if len(span) > 2 else ",".join(map(str, span)) for span in runs
    )


def _mistaken(got: Logits, want: Logits, among: Logits) -> int | None:
    """The first row that is much nearer to another row of ``among`` than to its own, or None."""
    for row, logits in enumerate(got):
        own = float(np.abs(logits - want[row]).max())
        if own > _NEARER * float(np.abs(among - logits).max(axis=1).min()):
            return row
    return None
