"""One session under examination: the batches that show whether its rows are independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from resnext.artifact.specs import BatchRange, numpy_dtype
from resnext.errors import BadInput, first_line
from resnext.precision import NUMERICS
from resnext.runtimes.session import Bound, Session

from ..parity import gate_for
from .laws import Ledger, Logits

#: Largest batch of bound inputs, for each size of which some runtimes compile.
_MOST_BOUND = 17
#: Smallest relative change of float images: 256 roundings of float32.
_LEAST_CHANGE = 2.0**-16
#: One gray level, relative to the middle one.
_ONE_LEVEL = 2.0**-7
#: Roundings of all layers over that of the input, in seeded ResNeXt-50 (measured: 5.4).
_BY_LAYERS = 5.0


class Exam:
    """Runs batches of a session with one input and one output, and enters them in a ledger.

    Args:
        session: what to run.
        images: different images.
        smallest: batch size whose logits the others are compared with.
        numerics: key of `NUMERICS`, for the limits.
        others: images that replace rows, in turns, from the last to the first; a precision may
            overflow on them. None means one extreme image.

    Attributes:
        ledger: the outcome so far.
    """

    def __init__(
        self,
        session: Session,
        images: NDArray[Any],
        smallest: int,
        numerics: str,
        others: NDArray[Any] | None = None,
    ) -> None:
        self._session, self._images, self._smallest = session, images, smallest
        self._numerics = numerics
        self._may_overflow = others is not None
        self._others = _extreme(images)[np.newaxis] if others is None else others
        self._replaced = 0
        self._of_others: dict[int, Logits] = {}
        self._first: Logits | None = None
        self.ledger = Ledger(gate_for(numerics).max_error)

    def begin(self, base: Logits | None = None) -> bool:
        """Run every image in the smallest batch, and measure rounding and noise there; False if
        that does not run.

        Args:
            base: logits of every image in the smallest batch, if they are known; rounding is then
                only measured if it decides something.
        """
        size, rows = self._smallest, self._rows(self._smallest)
        known = base is not None
        base = self._in_smallest_batches(self._images) if base is None else base
        if base is None:
            return False
        if not self.ledger.begin(base):
            self.ledger.fail("finite", size, f"batch {size} gives zeros only")
            return False
        if known:
            self.ledger.postpone(self._rounding)
        else:
            self.ledger.rounding = self._rounding()
        # The base is not compared with itself: its last window may be shorter than a batch.
        self._first, again = self._run(rows), self._run(rows)
        if self._first is None or again is None:
            return False
        self.ledger.compare("repeat", again, self._first)
        return True

    def visit(self, size: int) -> None:
        """Examine the laws at one batch size."""
        rows = self._rows(size, 1)
        if (logits := self.in_batch(rows)) is None:
            return
        if (again := self._run(rows)) is not None:
            self.ledger.compare("repeat", again, logits)
        if size > 1:
            if (alike := self._run(np.zeros(size, int))) is not None:
                self.ledger.compare("identical", alike, np.repeat(alike[:1], size, axis=0))
            mixed = np.random.Generator(np.random.PCG64(size)).permutation(size)
            self.permute(rows, np.roll(np.arange(size), 1), logits)
            self.permute(rows, mixed, logits)
            odd = np.arange(size) % 2 == 1
            for changed in (odd, ~odd):
                self.replace(rows, changed, logits)
            for real in sorted({1, size - 1}):
                self._pad(rows, real, logits)
        self.first_again()
        if (later := self._run(rows)) is not None:
            self.ledger.compare("stale", later, logits, exact=True)

    def visit_once(self, size: int) -> None:
        """Examine law ``size`` at one batch size, in one run."""
        self.in_batch(self._rows(size, 1))

    def visit_quickly(self, size: int, *, odd: bool, known: Logits | None = None) -> None:
        """Examine one batch size in two runs, the second with other images in the odd or in the
        even rows.

        Args:
            size: the batch size.
            odd: replace the odd rows.
            known: logits of the first images in this size, after law ``size``.
        """
        rows = self._rows(size, 1 if known is None else 0)
        logits = self.in_batch(rows) if known is None else known
        if logits is not None:
            self.replace(rows, np.arange(size) % 2 == odd, logits)

    def in_batch(self, rows: NDArray[Any]) -> Logits | None:
        """Logits of a batch, after law ``size``; None if it does not run."""
        if (logits := self._run(rows)) is not None:
            self._hold(logits, rows)
        return logits

    def hold(self, logits: Logits, size: int) -> None:
        """Law ``size`` for what ran already: all images in whole batches, filled up as by
        `check.whole`.
        """
        for at in range(0, len(logits), size):
            batch = logits[at : at + size]
            if self._checked(batch, size) is not None:
                self._hold(batch, self._rows(size, at))

    def permute(self, rows: NDArray[Any], order: NDArray[Any], logits: Logits) -> None:
        """Law ``permuted``.

        Args:
            rows: image of each row.
            order: for each row of the new batch, the row that it repeats.
            logits: of ``rows``.
        """
        if (permuted := self._run(rows[order])) is not None:
            self.ledger.compare("permuted", permuted, logits[order], among=logits)

    def replace(self, rows: NDArray[Any], changed: NDArray[np.bool_], logits: Logits) -> None:
        """Law ``neighbor``: replace the ``changed`` rows by other images."""
        places, kept = np.flatnonzero(changed), np.flatnonzero(~changed)
        others = -1 - (self._replaced + np.arange(len(places))) % len(self._others)
        self._replaced += len(places)
        images = self._images[rows]
        images[places] = self._others[others]
        after = self._logits(images, kept if self._may_overflow else None)
        if after is not None:
            self.ledger.compare("neighbor", after, logits, exact=True, rows=kept)
            self._of_others.update(zip(others.tolist(), after[places], strict=True))

    def logits_of_others(self, size: int) -> Logits:
        """Logits of all images that replace rows; those that replaced none yet run in batches of
        ``size``.
        """
        order = range(-len(self._others), 0)
        missing = np.array([index for index in order if index not in self._of_others], int)
        for at in range(0, len(missing), size):
            batch = np.resize(missing[at : at + size], size)
            logits = self._session(self._others[batch]).astype(np.float64)
            self._of_others.update(zip(batch.tolist(), logits, strict=True))
        return np.stack([self._of_others[index] for index in order])

    def first_again(self) -> None:
        """Law ``stale`` at the smallest batch: the first one must give what it gave."""
        again = self._run(self._rows(self._smallest))
        if again is not None and self._first is not None:
            self.ledger.compare("stale", again, self._first, exact=True)

    def bind(self, sizes: Sequence[int]) -> None:
        """Law ``bound``: three bound inputs, of two sizes, run in turns with each other and with
        plain runs.
        """
        largest = max((size for size in sizes if size <= _MOST_BOUND), default=self._smallest)
        batches = [self._rows(largest, 1), self._rows(largest, 2), self._rows(self._smallest)]
        spec, name = self._session.inputs[0], self._session.outputs[0].name
        base, bounds, earlier = self.ledger.base, list[Bound](), list[Logits]()
        try:
            for rows in batches:
                images = np.ascontiguousarray(spec.cast(self._images[rows]))
                bounds.append(self._session.bind({spec.name: images}))
            for _ in range(2):
                for bound in bounds:
                    bound.enqueue()
                self._run(batches[1])
                logits = [bound.fetch()[name].astype(np.float64) for bound in bounds]
                for rows, now in zip(batches, logits, strict=True):
                    self.ledger.compare("bound", now, base[rows], among=base)
                for now, before in zip(logits, earlier, strict=False):
                    self.ledger.compare("bound", now, before, exact=True)
                earlier = logits
        except Exception as exc:  # whatever a runtime raises
            self.ledger.fail("bound", largest, f"batch {largest}: {described(exc)}")
        finally:
            for bound in bounds:
                bound.close()

    def pass_the_ends(self, ranges: Sequence[BatchRange]) -> None:
        """Law ``range``: batch sizes just past a range are refused, as wrong input."""
        beyond = {
            size
            for covered in ranges
            for size in (covered.min - 1, (covered.max or 0) + 1)
            if size > 0 and not any(size in other for other in ranges)
        }
        for size in sorted(beyond):
            try:
                self._session(self._images[self._rows(size, 1)])
            except BadInput:
                self.ledger.refused(size)
                continue
            except Exception as exc:  # whatever a runtime raises
                past = f"fails instead of being refused: {described(exc)}"
            else:
                past = "is not refused"
            self.ledger.fail("range", size, f"batch {size} is past the range, and {past}")

    def _pad(self, rows: NDArray[Any], real: int, logits: Logits) -> None:
        """Law ``padding``: only the first ``real`` rows are images, the others zeros."""
        images = self._images[rows]
        images[real:] = 0
        if (padded := self._logits(images)) is not None:
            self.ledger.compare("padding", padded, logits, exact=True, rows=np.arange(real))

    def _rows(self, size: int, first: int = 0) -> NDArray[Any]:
        """Images of a batch: one after the other from ``first`` on, repeated if need be."""
        rows: NDArray[Any] = (np.arange(size) + first) % len(self._images)
        return rows

    def _run(self, rows: NDArray[Any]) -> Logits | None:
        return self._logits(self._images[rows])

    def _hold(self, logits: Logits, rows: NDArray[Any]) -> None:
        base = self.ledger.base
        self.ledger.compare("size", logits, base[rows], among=base)

    def _logits(self, images: NDArray[Any], rows: NDArray[Any] | None = None) -> Logits | None:
        """Logits of a batch in the range, finite in ``rows``, or in all of them; None if it does
        not run, which breaks the law ``range``.
        """
        size = len(images)
        self.ledger.examined("range", size)
        try:
            logits: Logits = self._session(images).astype(np.float64)
        except Exception as exc:  # whatever a runtime raises
            failure = f"batch {size} is in the range, and fails: {described(exc)}"
            self.ledger.fail("range", size, failure)
            return None
        return self._checked(logits, size, rows)

    def _checked(
        self, logits: Logits, size: int, rows: NDArray[Any] | None = None
    ) -> Logits | None:
        """``logits``, after laws ``range`` and ``finite``; None if they are of another shape."""
        self.ledger.examined("range", size)
        if logits.ndim != 2 or len(logits) != size:
            self.ledger.fail("range", size, f"batch {size} gives logits of shape {logits.shape}")
            return None
        self.ledger.examined("finite", size)
        rows = np.arange(size) if rows is None else rows
        wrong = rows[~np.isfinite(logits[rows]).all(axis=1)]
        if wrong.size:
            failure = f"batch {size}, row {wrong[0]} holds NaN or infinity"
            self.ledger.fail("finite", size, failure)
        return logits

    def _in_smallest_batches(self, images: NDArray[Any]) -> Logits | None:
        """Logits of ``images``; None if a batch does not run."""
        size, parts = self._smallest, []
        for at in range(0, len(images), size):
            logits = self._logits(images[self._rows(size, at)])
            if logits is None:
                return None
            parts.append(logits[: len(images) - at])
        return np.concatenate(parts)

    def _rounding(self) -> float | None:
        """How far logits move if every operation rounds differently, relative to their RMS; None if
        that does not run.

        The images are changed by one rounding unit of the precision. If that is so small that a
        session's noise could hide the effect, or cannot be done to pixels, then they are changed by
        more, and the effect is scaled down; it then lacks what the layers' own roundings add.
        """
        row = NUMERICS[self._numerics]
        unit = _rounding_unit(row.eager_dtype or row.weight_dtype)
        signs = np.random.Generator(np.random.PCG64(0)).choice([-1, 1], self._images.shape)
        if self._images.dtype.kind == "u":
            change, moved = _ONE_LEVEL, np.clip(self._images.astype(np.int16) + signs, 0, 255)
        else:
            change = max(unit, _LEAST_CHANGE)
            moved = self._images * (1 + change * signs)
        logits = self._in_smallest_batches(moved.astype(self._images.dtype))
        if logits is None:
            return None
        effect = self.ledger.difference(logits)
        return effect if unit >= change else effect * unit / change * _BY_LAYERS


def _extreme(images: NDArray[Any]) -> NDArray[Any]:
    """A checkerboard of the largest and the smallest value."""
    board = np.indices(images.shape[1:]).sum(axis=0) % 2 == 0
    extreme: NDArray[Any] = np.where(board, images.max(), images.min()).astype(images.dtype)
    return extreme


def _rounding_unit(dtype: str) -> float:
    """Largest relative error of rounding to ``dtype``; for integers, of the largest value."""
    kind = numpy_dtype(dtype)
    if kind.kind == "i":
        return 0.5 / float(np.iinfo(kind).max)
    return float(ml_dtypes.finfo(kind).eps) / 2  # type: ignore[no-untyped-call]


def described(exc: Exception) -> str:
    """A foreign error in one line."""
    return f"{type(exc).__name__}: {first_line(exc)}"
