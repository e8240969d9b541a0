"""Whether a candidate computes the same function as the reference: metrics, gates, a verdict.

The reference is float64 (or eager float32) PyTorch on the same input bytes. Differences are
measured against the root mean square of the reference logits, so one tolerance serves every
network, and against the loss of the precision itself. NaN and infinity always fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from resnext.artifact.specs import Strict
from resnext.errors import UsageError
from resnext.precision import NUMERICS, Gate

from .margins import MarginBin, clopper_pearson, flips_by_margin, margins

if TYPE_CHECKING:
    from resnext.artifact.manifest import Manifest

_ROUNDING = float(np.finfo(np.float32).eps)
#: Two logits closer than this (relative to RMS) count as a tie.
_TIE = 1e-5
#: Least loss of a precision, in float32 roundings of the largest logit. Eager PyTorch loses as
#: little as one on a shallow network, and sound runtimes up to four.
_LEAST_LOSS = 4
#: Fewer logits than this in a row may all be nearly zero by chance: a cosine then says nothing (nor
#: for this many), and an error relative to the row's own size is large.
#:
#: Measured in 20 seeded networks of two blocks for each number of classes. Logits scaled by 1.01,
#: and the dropped bias of a batch norm or of the classifier, fail in all of them with 1, 2, 3 and
#: 10 classes, in fp32 and fp16. One logit off by 0.01 of the RMS passes in fp16 in 0, 1, 4 and 19
#: of them: fewer classes are judged more strictly. Without the exceptions, the same faults pass,
#: and 4, 2 and 0 sound networks with 1, 2 and 3 classes fail; of 100 in bf16 10 with 3 classes, and
#: 3 with 4 by their cosine alone.
FEW_LOGITS = 4
#: Fewer logits than this in all say little about a precision: it may lose next to nothing on them
#: by chance, and a sound runtime that rounds otherwise a multiple of that.
_LEAST_LOGITS = 64
#: Images to compare at most to reach it. A prime, so that rows that are shifted by any usual size
#: show.
_MOST_IMAGES = 29


#: Metrics that a gate limits.
Metric = Literal["max_error", "error_ratio", "mean_ratio", "min_cosine", "top1"]


class Limit(Strict):
    """One limit of a gate: what a candidate has, and what it may have.

    Attributes:
        name: the metric of `Parity`, or of `Gate` for the ratio of the means.
        actual: the candidate's value.
        allowed: the limit.
        would_pass: the tightest limit that would pass: ``actual``, rounded to three digits towards
            the looser side.
        at_least: the limit is a lower bound.
    """

    name: Metric
    actual: float
    allowed: float
    would_pass: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether it is kept; false for NaN."""
        return self.actual >= self.allowed if self.at_least else self.actual <= self.allowed


class Flips(Strict):
    """Changes of the top-1 class by the reference's margin.

    Rounding may flip an image whose margin is within the noise: twice the precision's own largest
    error, or twice one rounding of the largest logit if that is not known. A flip beyond it shows
    more than rounding.

    Attributes:
        by_margin: images and flips, binned by margin.
        noise: the margin within which the precision itself may flip an image.
        clear_images: number of images beyond it.
        clear_flips: number of them that flip.
        clear_rate_high: upper Clopper-Pearson bound of their rate (95 %, two-sided); 1 without such
            images.
    """

    by_margin: tuple[MarginBin, ...]
    noise: float
    clear_images: int
    clear_flips: int
    clear_rate_high: float


class InputKind(Strict):
    """The comparison on one kind of input.

    Attributes:
        name: the kind: ``seeded``, a source of images, or an adversarial one.
        images: number of images that were compared.
        left_out: number of images on which the precision itself is not finite, so that there is
            nothing to compare with.
        max_error: largest absolute difference, over the root mean square of the reference logits;
            for an adversarial input, of its own; None if it is not finite or nothing was compared.
        allowed: largest ``max_error`` that the gate allows.
        worst: index of the image with ``max_error`` among those of this kind; None without it.
        finite: no logit is NaN or infinite.
    """

    name: str
    images: int
    left_out: int = 0
    max_error: float | None
    allowed: float
    worst: int | None = None
    finite: bool = True


class Parity(BaseModel):
    """The outcome of one comparison.

    Differences between candidate and reference are absolute, relative to the reference's root mean
    square (``max_error``, ``mean_error``), or relative to each reference value (``max_relative``,
    ``mean_relative``, for values of at least a thousandth of the root mean square). All but
    ``inputs`` and ``failures`` are of ordinary images alone; adversarial ones have logits of
    another size.

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
        error_ratio: ``max_error`` over ``loss``, which counts as at least four float32 roundings of
            the largest logit; None without a baseline.
        artifact_sha256: digest of the file that was compared, or None for a live model.
        gate: name of the gate.
        limits: each limit with actual and allowed value.
        loss: largest error of the baseline, relative to the root mean square of the reference: what
            the precision itself loses; None without a baseline.
        flips: changes of the top-1 class by the reference's margin; None if nothing was compared.
        inputs: the kinds of input, ordinary images first.
        reference: what it was compared with, as `resnext.verify.check.check` names it.
        unknown: what the comparison cannot tell; "" if nothing is to be said.
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
    gate: str | None = None
    limits: tuple[Limit, ...] = ()
    loss: float | None = None
    flips: Flips | None = None
    inputs: tuple[InputKind, ...] = ()
    reference: str = "torch"
    unknown: str = ""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields; a comparison with PyTorch as it was stored when there was no other, so that
        earlier verdicts keep their digests.
        """
        fields: dict[str, Any] = handler(self)
        if self.reference == "torch":
            del fields["reference"]
            if not self.unknown:
                del fields["unknown"]
        return fields

    def of(self, reference: str, unknown: str) -> Parity:
        """This outcome of a comparison with ``reference``, which cannot tell ``unknown``."""
        both = "; ".join(filter(None, (self.unknown, unknown)))
        return self.model_copy(update={"reference": reference, "unknown": both})

    def with_inputs(self, inputs: Sequence[InputKind], failures: Sequence[str]) -> Parity:
        """This outcome with further kinds of input, and what failed on them; if it failed before,
        these failures would only hide the cause.
        """
        return self.model_copy(
            update={
                "passed": self.passed and not failures,
                "failures": self.failures or tuple(failures),
                "inputs": (*self.inputs, *inputs),
            }
        )


def images_to_compare(count: int, classes: int) -> int:
    """Number of images to compare: ``count``, or more if these have few logits."""
    return max(count, min(_MOST_IMAGES, -(-_LEAST_LOGITS // classes)))


def gate_for(precision: str, preset: str = "default") -> Gate:
    """The gate for ``precision``.

    Args:
        precision: as in `NUMERICS`.
        preset: as in `resnext.precision.PRESETS`.

    Raises:
        UsageError: there is none.
        UnknownName: no such preset.
    """
    try:
        gate = NUMERICS[precision].gate
    except KeyError:
        raise UsageError(
            f"no parity gate for precision {precision!r}; known: {', '.join(NUMERICS)}"
        ) from None
    return gate if preset == gate.name else gate.at(preset)


def gate_of(manifest: Manifest, preset: str = "default") -> Gate:
    """The gate for an artifact: that of its precision; for a quantized one, a small multiple of
    its error when it was made.

    The error of a sound int8 network depends on the network, so the table's limit only catches
    nonsense.
    """
    gate = gate_for(manifest.numerics, preset)
    if manifest.quantization is None or manifest.check is None:
        return gate
    return replace(
        gate, max_error=min(gate.max_error, gate.max_error_ratio * manifest.check.max_error)
    )


def compare(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    *,
    gate: Gate | str = "default",
    precision: str = "fp32",
    baseline: NDArray[Any] | None = None,
    dtype: str = "float32",
    artifact_sha256: str | None = None,
    images: str = "images",
) -> Parity:
    """Compare logits.

    Args:
        reference: N x classes, float64 or float32, finite.
        candidate: logits of the tested runtime for the same N inputs, in the same order.
        gate: acceptance limits, or a preset's name: ``strict``, ``default`` or ``loose``.
        precision: of the candidate; chooses the limits of a preset.
        baseline: logits that show the cost of the candidate's precision on the same inputs, for
            ``error_ratio``: eager PyTorch at that precision, or a quantized graph computed as
            ONNX defines it. Rows that are not finite show none; without any other, there is no
            ratio, and the remaining limits judge.
        dtype: element type that the candidate must have.
        artifact_sha256: digest of the file that gave ``candidate``; the verdict holds for it alone.
        images: what the rows are, for `Parity.inputs`.

    Raises:
        UsageError: the reference is unusable: empty, not two-dimensional, not finite, or all
            zero.
        UnknownName: no such preset.
    """
    gate = gate_for(precision, gate) if isinstance(gate, str) else gate
    if reference.ndim != 2 or reference.size == 0:
        raise UsageError(
            f"the reference must be N x classes and not empty, got shape {reference.shape}"
        )
    want = reference.astype(np.float64)
    rms = float(np.sqrt(np.mean(want**2)))
    if not np.isfinite(want).all() or rms == 0:
        raise UsageError("the reference itself is NaN, infinite or all zero; it can prove nothing")
    if baseline is not None and baseline.shape != want.shape:
        raise UsageError(f"the baseline must be of shape {want.shape}, not {baseline.shape}")
    # Rows for which the precision itself overflows show no cost of it.
    shown = None if baseline is None else np.isfinite(baseline).all(axis=1)

    failures = []
    if candidate.dtype.name != dtype:
        failures.append(f"dtype is {candidate.dtype}, want {dtype}")
    if candidate.shape != want.shape:
        failures.append(f"shape is {candidate.shape}, want {want.shape}")
        return _incomparable(failures, len(want), artifact_sha256, gate, images)
    got = candidate.astype(np.float64)
    finite = np.isfinite(got)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        failures.append(
            f"{int(np.isnan(got).sum())} NaN and {int(np.isinf(got).sum())} infinite values, first"
            f" in row {rows[0]}"
        )
        if shown is not None and not shown[rows].any():
            failures.append(
                "so has the precision itself on these rows: values in between are beyond its range"
            )
        return _incomparable(failures, len(want), artifact_sha256, gate, images)

    difference = np.abs(got - want)
    relative = difference[np.abs(want) > rms * 1e-3] / np.abs(want[np.abs(want) > rms * 1e-3])
    max_error, mean_error = float(difference.max()) / rms, float(difference.mean()) / rms
    cosine = _cosine(got, want)
    agreed = got.argmax(axis=1) == want.argmax(axis=1)
    ratio = mean_ratio = loss = None
    least = least_loss(want, rms)
    if baseline is not None and shown is not None and shown.any():
        lost = np.abs(baseline.astype(np.float64) - want)[shown] / rms
        loss = float(lost.max())
        ratio = max_error / max(loss, least)
        mean_ratio = mean_error / max(float(lost.mean()), _ROUNDING)
    tied = margins(want) <= _TIE * rms
    limits = [
        _at_most("max_error", max_error, gate.max_error),
        _at_most("error_ratio", ratio, gate.max_error_ratio),
        _at_most("mean_ratio", mean_ratio, gate.max_mean_ratio),
        _at_least("min_cosine", float(cosine.min()), gate.min_cosine),
        _at_least("top1", float((agreed | tied).mean()), gate.min_top1),
    ]
    messages: dict[Metric, str] = {
        "max_error": f"max error {max_error:.2e} of the logits' RMS, allowed {gate.max_error:.1e}",
        "error_ratio": f"error is {ratio or 0:.1f} times what its precision costs, allowed"
        f" {gate.max_error_ratio:g}",
        "mean_ratio": f"mean error is {mean_ratio or 0:.1f} times what its precision costs, allowed"
        f" {gate.max_mean_ratio:g}",
        "min_cosine": f"cosine {float(cosine.min()):.6f} in row {int(cosine.argmin())}, allowed"
        f" {gate.min_cosine:.6g}",
        "top1": f"top-1 agrees in {int(agreed.sum())} of {len(agreed)} rows, allowed"
        f" {gate.min_top1:.0%}",
    }
    kept = [limit for limit in limits if limit is not None]
    failures += [messages[limit.name] for limit in kept if not limit.passed]
    allowed = allowed_error(gate, loss, least)
    if failures and (hint := _diagnosis(got, want, allowed * rms)):
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
        gate=gate.name,
        limits=tuple(kept),
        loss=loss,
        unknown=_without_loss(shown),
        flips=_flips(want / rms, ~agreed, 2 * max(loss or 0.0, least)),
        inputs=(
            InputKind(
                name=images,
                images=len(want),
                max_error=max_error,
                allowed=allowed,
                worst=int(difference.max(axis=1).argmax()),
            ),
        ),
    )


def _without_loss(shown: NDArray[np.bool_] | None) -> str:
    """What is not known where the precision itself overflows."""
    if shown is None or shown.all():
        return ""
    return (
        f"what the precision itself loses is not known on {int((~shown).sum())} of {len(shown)}"
        " images: eager PyTorch overflows in it there"
    )


def least_loss(reference: NDArray[Any], rms: float) -> float:
    """The least loss of any precision on ``reference``, relative to ``rms``."""
    return _LEAST_LOSS * _ROUNDING * max(1.0, float(np.abs(reference).max()) / rms)


def allowed_error(gate: Gate, loss: float | None, least: float) -> float:
    """The largest ``max_error`` that ``gate`` allows at a precision that loses ``loss``."""
    if loss is None:
        return gate.max_error
    return min(gate.max_error, gate.max_error_ratio * max(loss, least))


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


def _at_most(name: Metric, actual: float | None, allowed: float) -> Limit | None:
    """An upper limit; None if there is nothing to limit."""
    if actual is None or allowed == float("inf"):
        return None
    return Limit(name=name, actual=actual, allowed=allowed, would_pass=_rounded_up(actual))


def _at_least(name: Metric, actual: float, allowed: float) -> Limit:
    """A lower limit between 0 and 1, with three digits of what is missing from 1."""
    passing = 1 - _rounded_up(1 - actual)
    return Limit(name=name, actual=actual, allowed=allowed, would_pass=passing, at_least=True)


def _rounded_up(value: float) -> float:
    """``value`` to three digits, not below it."""
    if value <= 0 or not isfinite(value):
        return max(value, 0.0)
    digits = 2 - floor(log10(value))
    return float(f"{ceil(value * 10.0**digits)}e{-digits}")


def _flips(want: NDArray[np.float64], flipped: NDArray[np.bool_], noise: float) -> Flips:
    clear = margins(want) > noise
    images, flips = int(clear.sum()), int((clear & flipped).sum())
    return Flips(
        by_margin=flips_by_margin(want, flipped),
        noise=noise,
        clear_images=images,
        clear_flips=flips,
        clear_rate_high=clopper_pearson(flips, images)[1] if images else 1.0,
    )


def _incomparable(
    failures: list[str], rows: int, sha256: str | None, gate: Gate, images: str
) -> Parity:
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
        gate=gate.name,
        inputs=(
            InputKind(
                name=images, images=rows, max_error=None, allowed=gate.max_error, finite=False
            ),
        ),
    )


def _cosine(got: NDArray[Any], want: NDArray[Any]) -> NDArray[Any]:
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    cosine: NDArray[Any] = np.sum(got * want, axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    # A row of zeros has no direction, a single logit only a sign, and few logits that are small by
    # chance almost any: max_error judges them.
    directed = np.any(want, axis=1) & (want.shape[1] > 1)
    if want.shape[1] <= FEW_LOGITS:
        sizes = np.mean(want**2, axis=1)
        directed &= sizes >= sizes.mean() / 4
    return np.where(directed, cosine, 1.0)


def _top_set_agreement(got: NDArray[Any], want: NDArray[Any], k: int) -> float:
    k = min(k, want.shape[1])
    first_got = np.sort(np.argsort(-got, axis=1, kind="stable")[:, :k], axis=1)
    first_want = np.sort(np.argsort(-want, axis=1, kind="stable")[:, :k], axis=1)
    return float((first_got == first_want).all(axis=1).mean())


def _diagnosis(got: NDArray[Any], want: NDArray[Any], close: float) -> str | None:
    """Name a fault that the numbers reveal, or None.

    Args:
        got: the candidate's logits, N x classes.
        want: the reference's, likewise.
        close: difference within which two logits are the same.
    """
    if len(want) > 1:
        nearest, sure = [], True
        for row in got:
            distance = np.abs(want - row).max(axis=1)
            nearest.append(int(distance.argmin()))
            # One that is close to several different rows is nobody's: the limit is wide.
            sure = sure and len(np.unique(want[distance <= close], axis=0)) == 1
        if sure and nearest != list(range(len(got))):
            return "every row equals another row of the reference: rows are swapped or repeated"
        if float(got.std(axis=0).max()) == 0:
            return "every row is the same: the output does not depend on the input"
    return None
