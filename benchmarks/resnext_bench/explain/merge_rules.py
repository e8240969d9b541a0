"""Sentences on merged groups: what they cost, and where they are known to pay."""

from __future__ import annotations

from resnext.precision import DEFAULT, PRECISIONS
from resnext_bench.limits.ceilings import MachineCeilings
from resnext_bench.merge_priors import BATCH, prior_of

from .facts import Facts
from .sentence import Sentence, computed, known, listed
from .stages import Merge, floor_s, merges_of, stage_widths

#: Groups of fewer channels are narrow: kernels of matrix units take at least so many.
_WIDE = 32
#: Names of runtimes that are another one on a processor.
_ALIAS = {"ort": "ort-cpu"}


def nothing_to_merge(facts: Facts) -> Sentence | None:
    """One group, or groups as wide as they come."""
    if merges_of(facts.config, facts.groups):
        return None
    if facts.config.cardinality == 1:
        return computed("There is nothing to merge: every convolution has one group.", "no use")
    more = " more" if facts.groups else ""
    return computed(
        f"There is nothing{more} to merge: every group has 64 channels or more, or all there are.",
        None if more else "no use",
    )


def narrow(facts: Facts) -> Sentence | None:
    """Stages whose groups are narrow."""
    stages = stage_widths(facts.grouped, below=_WIDE)
    if not stages:
        return None
    macs = sum(layer.macs for layer in facts.layers)
    share = sum(layer.macs for layer in facts.grouped) / macs
    return computed(
        f"Groups are narrow in {stages}; kernels of matrix units take {_WIDE} or more. All grouped"
        f" convolutions have {share:.1%} of the multiply-accumulates.",
        "try",
    )


def cost(facts: Facts) -> Sentence | None:
    """What each width costs in multiply-accumulates and weights."""
    merges = merges_of(facts.config, facts.groups)
    if not merges:
        return None
    macs = sum(layer.macs for layer in facts.layers)
    weights = sum(layer.weights for layer in facts.layers)
    lines = [
        f"{_scaled(merge.macs)} ({merge.macs / macs - 1:+.1%}) and {_scaled(merge.weights)}"
        f" ({merge.weights / weights - 1:+.1%}) at {merge.width} channels a group"
        for merge in merges
    ]
    return computed(
        f"It is exact, and costs zeros: {_scaled(macs)} multiply-accumulates and"
        f" {_scaled(weights)} weights become {'; '.join(lines)}."
    )


def floors(facts: Facts) -> Sentence | None:
    """What the zeros add to the floor of the network."""
    merges = merges_of(facts.config, facts.groups)
    if facts.ceilings is None or not merges:
        return None
    merge = next((each for each in merges if each.width == _WIDE), merges[0])
    precisions = [each for each in (DEFAULT, "int8") if facts.on("native", each) or each == DEFAULT]
    parts = [
        f"{_growth(facts, merge, precision, facts.ceilings)} at {precision}"
        for precision in precisions
    ]
    return computed(
        f"Merged to {merge.width} channels, the network's floor, layer by layer, grows by"
        f" {' and '.join(parts)}, batch {facts.batch}."
    )


def bound(facts: Facts) -> Sentence | None:
    """What sets the floors of the grouped convolutions."""
    stages = [each for each in facts.stages if each.kind == "grouped 3x3" and each.floors]
    if not stages:
        return None
    total = facts.layers_ns()
    assert total is not None
    share = sum(each.floors[DEFAULT].seconds for each in stages) * 1e9 / total
    by = {
        limit: [each.stage for each in stages if each.floors[DEFAULT].limited_by == limit]
        for limit in ("memory", "compute")
    }
    parts = [
        f"{word} in {listed(by[limit])}"
        for limit, word in (("memory", "memory"), ("compute", "arithmetic"))
        if by[limit]
    ]
    return computed(
        f"The grouped convolutions have {share:.0%} of the floor at fp32, which"
        f" {' and '.join(parts)} sets; what they take beyond it is up to the kernels."
    )


def on_this_kind(facts: Facts) -> Sentence | None:
    """Where it paid on another processor of this kind, and where not."""
    names = dict.fromkeys(
        _ALIAS.get(each.name, each.name) for each in facts.usable if each.device == "cpu"
    )
    priors = [
        prior
        for name in names
        for precision in PRECISIONS
        if (prior := prior_of(facts.features, name, precision)) is not None
    ]
    if not priors or not merges_of(facts.config, facts.groups):
        return None
    results = [f"{prior.backend} {prior.precision} {prior.result}" for prior in priors]
    return known(
        f"In ResNeXt-50 at batch {BATCH}, merging made {listed(results)}.",
        "; ".join(dict.fromkeys(prior.where for prior in priors)),
    )


def for_tensorrt(facts: Facts) -> Sentence | None:
    """Why TensorRT may need it."""
    if not stage_widths(facts.grouped, below=_WIDE):
        return None
    gains = {
        "have fp8 kernels": ("fp8", "TensorRT's release notes, 10.12"),
        "fill int8 tensor cores": ("int8", "NVIDIA/TensorRT#4529"),
        "have half-precision kernels where there were none": ("fp16", "NVIDIA/TensorRT#4838"),
    }
    found = {
        gain: where
        for gain, (precision, where) in gains.items()
        if any(
            each.tensorrt11 if precision == "fp16" else each.tensorrt
            for each in facts.on("native", precision)
        )
    }
    if not found:
        return None
    return known(
        f"Merged to {_WIDE} channels, grouped convolutions {listed(list(found))}.",
        "; ".join(found.values()),
        "try",
    )


def _growth(facts: Facts, merge: Merge, precision: str, ceilings: MachineCeilings) -> str:
    before = floor_s(facts.layers, precision, facts.batch, ceilings)
    return f"{floor_s(merge.layers, precision, facts.batch, ceilings) / before - 1:.1%}"


def _scaled(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"
