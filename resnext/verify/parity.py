"""Whether a candidate computes the same function as the reference: metrics, gates, a verdict.

The reference is float64 (or eager float32) PyTorch on the same input bytes. Differences are
measured against the root mean square of the reference logits, so one tolerance serves every
network. NaN and infinity always fail.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from resnext.errors import UsageError
from resnext.precision import NUMERICS, Gate

if TYPE_CHECKING:
    from resnext.artifact.manifest import Manifest

#: Confidence of the Clopper-Pearson bound on agreement.
CONFIDENCE = 0.95
#: Two logits closer than this (relative to RMS) count as a tie.
_TIE = 1e-5


class Parity(BaseModel):
    """The outcome of one comparison.

    Differences between candidate and reference are absolute, relative to the reference's root mean
    square (``max_error``, ``mean_error``), or relative to each reference value (``max_relative``,
    ``mean_relative``, for values of at least a thousandth of the root mean square).

    Attributes:
        passed: no limit was exceeded.
        failures: the exceeded limits, one line each.
        rows: number of images.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        max_relative: largest difference relative to its reference value.
        mean_relative: mean of the same.
        max_error: ``max_abs`` over the root mean square of the reference.
        mean_error: ``mean_abs`` over the same.
        min_cosine: smallest cosine over rows.
        top1: share of rows whose first class agrees.
        top1_low: lower Clopper-Pearson bound of ``top1`` (95 %, two-sided).
        top5: share of rows whose five first classes agree as a set.
        error_ratio: ``max_error`` over that of the baseline; None without one.
        artifact_sha256: digest of the file that was compared, or None for a live model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    failures: tuple[str, ...]
    rows: int
    max_abs: float | None
    mean_abs: float | None
    max_relative: float | None
    mean_relative: float | None
    max_error: float | None
    mean_error: float | None
    min_cosine: float | None
    top1: float | None
    top1_low: float | None
    top5: float | None
    error_ratio: float | None = None
    artifact_sha256: str | None = None


def gate_for(precision: str) -> Gate:
    """The gate for ``precision``.

    Raises:
        UsageError: there is none.
    """
    try:
        return NUMERICS[precision].gate
    except KeyError:
        raise UsageError(
            f"no parity gate for precision {precision!r}; known: {', '.join(NUMERICS)}"
        ) from None


def gate_of(manifest: Manifest) -> Gate:
    """The gate for an artifact: that of its precision; for a quantized one, a small multiple of
    its error when it was made.

    The error of a sound int8 network depends on the network, so the table's limit only catches
    nonsense.
    """
    gate = gate_for(manifest.numerics)
    if manifest.quantization is None or manifest.check is None:
        return gate
    return replace(
        gate, max_error=min(gate.max_error, gate.max_error_ratio * manifest.check.max_error)
    )


def compare(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    *,
    gate: Gate | None = None,
    baseline: NDArray[Any] | None = None,
    dtype: str = "float32",
    artifact_sha256: str | None = None,
) -> Parity:
    """Compare logits.

    Args:
        reference: N x classes, float64 or float32, finite.
        candidate: logits of the tested runtime for the same N inputs, in the same order.
        gate: acceptance limits; None means fp32's.
        baseline: logits that show the cost of the candidate's precision on the same inputs, for
            ``error_ratio``: eager PyTorch at that precision, or a quantized graph computed as
            ONNX defines it.
        dtype: element type that the candidate must have.
        artifact_sha256: digest of the file that gave ``candidate``; the verdict holds for it alone.

    Raises:
        UsageError: the reference is unusable: empty, not two-dimensional, not finite, or all
            zero.
    """
    gate = gate or NUMERICS["fp32"].gate
    if reference.ndim != 2 or reference.size == 0:
        raise UsageError(
            f"the reference must be N x classes and not empty, got shape {reference.shape}"
        )
    want = reference.astype(np.float64)
    rms = float(np.sqrt(np.mean(want**2)))
    if not np.isfinite(want).all() or rms == 0:
        raise UsageError("the reference itself is NaN, infinite or all zero; it can prove nothing")
    if baseline is not None and (baseline.shape != want.shape or not np.isfinite(baseline).all()):
        raise UsageError(
            f"the baseline must be finite and of shape {want.shape}, got shape {baseline.shape}"
        )

    failures = []
    if candidate.dtype.name != dtype:
        failures.append(f"dtype is {candidate.dtype}, want {dtype}")
    if candidate.shape != want.shape:
        failures.append(f"shape is {candidate.shape}, want {want.shape}")
        return _incomparable(failures, len(want), artifact_sha256)
    got = candidate.astype(np.float64)
    finite = np.isfinite(got)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        failures.append(
            f"{int(np.isnan(got).sum())} NaN and {int(np.isinf(got).sum())} infinite values, first"
            f" in row {rows[0]}"
        )
        return _incomparable(failures, len(want), artifact_sha256)

    difference = np.abs(got - want)
    relative = difference[np.abs(want) > rms * 1e-3] / np.abs(want[np.abs(want) > rms * 1e-3])
    max_error, mean_error = float(difference.max()) / rms, float(difference.mean()) / rms
    cosine = _cosine(got, want)
    agreed = got.argmax(axis=1) == want.argmax(axis=1)
    ratio = None
    if baseline is not None:
        # A floor of one float32 rounding, or a lucky baseline would fail every candidate.
        lost = float(np.abs(baseline.astype(np.float64) - want).max()) / rms
        ratio = max_error / max(lost, float(np.finfo(np.float32).eps))

    if max_error > gate.max_error:
        failures.append(
            f"max error {max_error:.2e} of the logits' RMS, allowed {gate.max_error:.0e}"
        )
    if float(cosine.min()) < gate.min_cosine:
        failures.append(
            f"cosine {float(cosine.min()):.6f} in row {int(cosine.argmin())}, allowed"
            f" {gate.min_cosine}"
        )
    if float((agreed | _tied(want, rms)).mean()) < gate.min_top1:
        failures.append(
            f"top-1 agrees in {int(agreed.sum())} of {len(agreed)} rows, allowed"
            f" {gate.min_top1:.0%}"
        )
    if ratio is not None and ratio > gate.max_error_ratio:
        failures.append(
            f"error is {ratio:.1f} times what its precision costs, allowed {gate.max_error_ratio:g}"
        )
    if failures and (hint := _diagnosis(got, want, gate.max_error * rms)):
        failures.append(hint)
    low, _ = clopper_pearson(int(agreed.sum()), len(agreed))
    return Parity(
        passed=not failures,
        failures=tuple(failures),
        rows=len(want),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        max_relative=float(relative.max()),
        mean_relative=float(relative.mean()),
        max_error=max_error,
        mean_error=mean_error,
        min_cosine=float(cosine.min()),
        top1=float(agreed.mean()),
        top1_low=low,
        top5=_top_set_agreement(got, want, 5),
        error_ratio=ratio,
        artifact_sha256=artifact_sha256,
    )


def clopper_pearson(hits: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact two-sided confidence interval of a binomial proportion (Clopper and Pearson, 1934)."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high


def discriminates(reference: NDArray[Any], least: float = 0.05) -> bool:
    """Whether the reference's rows differ enough from each other to show a fault; True for a single
    row.

    If all rows were alike, a network that ignores its input, or one that swaps rows, would pass.
    """
    if len(reference) < 2:
        return True
    values = reference.astype(np.float64)
    spread = float(values.std(axis=0).mean())
    return spread > least * float(np.sqrt(np.mean(values**2)))


def _incomparable(failures: list[str], rows: int, sha256: str | None) -> Parity:
    return Parity(
        passed=False,
        failures=tuple(failures),
        rows=rows,
        max_abs=None,
        mean_abs=None,
        max_relative=None,
        mean_relative=None,
        max_error=None,
        mean_error=None,
        min_cosine=None,
        top1=None,
        top1_low=None,
        top5=None,
        artifact_sha256=sha256,
    )


def _cosine(got: NDArray[Any], want: NDArray[Any]) -> NDArray[Any]:
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    cosine: NDArray[Any] = np.sum(got * want, axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    # A row of zeros has no direction; max_error judges it.
    return np.where(np.any(want, axis=1), cosine, 1.0)


def _tied(want: NDArray[Any], rms: float) -> NDArray[np.bool_]:
    """Rows whose two largest reference logits are so close that float32 rounding may swap them."""
    if want.shape[1] < 2:
        return np.zeros(len(want), np.bool_)
    ordered = np.sort(want, axis=1)
    tied: NDArray[np.bool_] = ordered[:, -1] - ordered[:, -2] <= _TIE * rms
    return tied


def _top_set_agreement(got: NDArray[Any], want: NDArray[Any], k: int) -> float:
    k = min(k, want.shape[1])
    first_got = np.sort(np.argsort(-got, axis=1, kind="stable")[:, :k], axis=1)
    first_want = np.sort(np.argsort(-want, axis=1, kind="stable")[:, :k], axis=1)
    return float((first_got == first_want).all(axis=1).mean())


def _diagnosis(got: NDArray[Any], want: NDArray[Any], close: float) -> str | None:
    """Name a fault that the numbers reveal, or None."""
    if len(want) > 1:
        # Distance of every candidate row to every reference row.
        nearest = np.array([int(np.abs(want - row).max(axis=1).argmin()) for row in got])
        exact = all(
            float(np.abs(got[i] - want[nearest[i]]).max()) <= close for i in range(len(got))
        )
        if exact and not np.array_equal(nearest, np.arange(len(got))):
            return "every row equals another row of the reference: rows are swapped or repeated"
        if float(got.std(axis=0).max()) == 0:
            return "every row is the same: the output does not depend on the input"
    return None
