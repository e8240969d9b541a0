"""Sentences on what weights and activations predict."""

from __future__ import annotations

from resnext.precision import PRECISIONS

from .facts import Facts
from .sentence import Sentence, computed, known

#: Share of a layer's nonzero weights that may round to zero unsaid.
_MANY = 0.5
#: Activations of real images may be larger than those of seeded ones by this factor.
_HEADROOM = 8.0


def weight_refused(facts: Facts, precision: str) -> Sentence | None:
    """A weight that half precision cannot hold."""
    half = PRECISIONS[precision].lowered_to  # type: ignore[index]  # a topic that is a precision
    if facts.values is None or half is None or half not in facts.values.refused:
        return None
    reason = facts.values.refused[half]
    text = reason if reason.endswith(".") else f"{reason}."
    return computed(f"The export would refuse: {text}", "cannot")


def activations(facts: Facts, precision: str) -> Sentence | None:
    """The largest activation against what half precision can hold."""
    half = PRECISIONS[precision].lowered_to  # type: ignore[index]  # a topic that is a precision
    if facts.values is None or facts.values.largest is None or half is None:
        return None
    limit = PRECISIONS[half].largest
    layer, size = facts.values.largest
    seen = f"On {facts.values.images} seeded images the largest activation is {size:.3g} ({layer})"
    if not size <= limit:
        return computed(f"{seen}, beyond {half}'s {limit:.6g}: the export would refuse.", "cannot")
    if size * _HEADROOM > limit:
        return computed(
            f"{seen}; {half}'s largest number, {limit:.6g}, is only {limit / size:.2g} times that:"
            " another image may overflow."
        )
    if half == "bf16" or not facts.on("native", precision):  # bf16 is as wide as float32
        return None
    return computed(
        f"{seen}; {half}'s largest number, {limit:.6g}, is {limit / size:,.0f} times that."
    )


def vanishing(facts: Facts, precision: str) -> Sentence | None:
    """Weights that round to zero beside much larger ones of their channel."""
    if facts.values is None:
        return None
    on_cpu = any(each.device == "cpu" for each in facts.on("native", precision))
    grid = "int8 in 7 bits" if precision == "int8" and on_cpu else precision
    layer, share = facts.values.vanishing.get(grid, ("", 0.0))
    if share <= _MANY:
        return None
    return computed(
        f"{share:.0%} of the weights of {layer} would round to zero in {grid}, beside far larger"
        " ones of their channel: measure accuracy before you ship it."
    )


def calibration(facts: Facts, precision: str) -> Sentence | None:
    """Images that a quantized export needs."""
    if facts.calibrated or not facts.on("native", precision):
        return None
    return known(
        "It is calibrated on pictures like those in use: name a folder in `calibration`.",
        "this toolkit",
    )
