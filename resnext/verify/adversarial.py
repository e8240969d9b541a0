"""The comparison on adversarial inputs, each by the size of its own logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.precision import Gate

from .parity import FEW_LOGITS, InputKind, allowed_error, least_loss


def compare_adversarial(
    names: Sequence[str],
    reference: NDArray[Any],
    candidate: NDArray[Any],
    *,
    gate: Gate,
    baseline: NDArray[Any] | None = None,
    loss: float | None = None,
    saturates: bool = False,
    lossy: bool = False,
) -> tuple[tuple[InputKind, ...], tuple[str, ...]]:
    """Compare a candidate's logits for adversarial inputs, one of each kind.

    A candidate must be finite wherever the precision itself is. A quantized network clips what
    calibration images never reach, so its yardstick is its own graph, and without that only
    finiteness counts.

    Args:
        names: kind of each input.
        reference: N x classes.
        candidate: the tested runtime's, for the same inputs.
        gate: acceptance limits.
        baseline: the precision's own logits for the same inputs, or None.
        loss: what the precision loses on ordinary images, or None.
        saturates: the network is quantized.
        lossy: where the precision itself loses more than ``gate`` allows, only finiteness counts: a
            network from elsewhere may underflow on inputs that it was never meant for.

    Returns:
        The kinds, and a line that names those with values that are not finite, and one for those
        beyond the gate; no line if all pass.
    """
    if candidate.shape != reference.shape:
        return (), (f"adversarial inputs: shape is {candidate.shape}, want {reference.shape}",)
    with np.errstate(over="ignore", invalid="ignore"):
        want, got = reference.astype(np.float64), candidate.astype(np.float64)
        own = want if baseline is None else baseline.astype(np.float64)
        comparable = [bool(np.isfinite(row).all()) for row in want + own]
        yardstick = own if saturates else want
        rms = np.sqrt(np.mean(yardstick**2, axis=1))
        if want.shape[1] < FEW_LOGITS and any(comparable):
            rms = np.maximum(rms, np.median(rms[comparable]))  # no row is small by chance
        rms[rms == 0] = 1.0
        errors = np.abs(got - yardstick).max(axis=1) / rms
        losses = np.abs(own - want).max(axis=1) / rms
    worst_loss = loss
    judged = [not (saturates and baseline is None)] * len(names)
    if lossy:
        judged = [bool(lost <= gate.max_error) for lost in losses]
    if baseline is not None and not saturates:
        counted = [*map(all, zip(comparable, judged, strict=True))]
        worst_loss = float(np.max(losses, initial=loss or 0.0, where=counted))
    kinds, nonfinite, beyond = [], [], []
    for row, name in enumerate(names):
        if not comparable[row]:
            kinds.append(
                InputKind(name=name, images=0, left_out=1, max_error=None, allowed=gate.max_error)
            )
            continue
        allowed = allowed_error(gate, worst_loss, least_loss(yardstick[row], float(rms[row])))
        finite = bool(np.isfinite(got[row]).all())
        measured = judged[row] and finite
        kinds.append(
            InputKind(
                name=name,
                images=1,
                max_error=float(errors[row]) if measured else None,
                allowed=allowed,
                worst=0 if measured else None,
                finite=finite,
            )
        )
        if not finite:
            nonfinite.append(name)
        elif judged[row] and not errors[row] <= allowed:
            beyond.append(f"{name} {errors[row]:.1e} (allowed {allowed:.1e})")
    failures = [f"NaN or infinite logits on {', '.join(nonfinite)}"] if nonfinite else []
    failures += [f"max error, over the logits' RMS, on {', '.join(beyond)}"] if beyond else []
    return tuple(kinds), tuple(failures)
