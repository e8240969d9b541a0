"""Sentences on what runtimes and instructions do with a precision."""

from __future__ import annotations

from resnext.precision import DEFAULT
from resnext.runtimes.registry import LOCAL_RUNTIMES, REFERENCE, RUNTIMES

from .backends import instructions
from .facts import Facts
from .sentence import Sentence, computed, known, listed, named
from .stages import wider

#: A floor must be lower by this factor to be worth a file of its own.
_WORTH = 1.1
#: Share of the floor above which the time to launch kernels is worth a sentence.
_LAUNCHES = 0.25


def baseline(facts: Facts) -> Sentence | None:
    """Everything is compared with fp32."""
    verb = "runs" if len(facts.usable) == 1 else "run"
    who = f"{named(facts.usable)} {verb} it" if facts.usable else "no runtime runs it"
    return computed(f"The others are made from it and compared with it; {who}.", "baseline")


def nobody(facts: Facts, precision: str) -> Sentence | None:
    """No runtime that is asked about runs this precision."""
    able = [each for each in facts.backends if precision in each.ways]
    if any(not each.problem for each in able):
        return None
    if able:
        return computed(f"{able[0].name} cannot run: {able[0].problem}.", "cannot")
    asked = named(facts.backends) if facts.backends else "nothing here"
    others = [name for name in LOCAL_RUNTIMES if precision in RUNTIMES[name].precisions]
    hint = ""
    if set(others) == {REFERENCE, "trt", "trt-rtx"}:
        hint = ", on a GPU: name one of another machine in `target`"
    return computed(
        f"{asked} cannot run it; of all runtimes,"
        f" {listed([name for name in others if name != REFERENCE])} can{hint}.",
        "cannot",
    )


def native(facts: Facts, precision: str) -> Sentence | None:
    """Which runtimes compute in it, with which instructions."""
    backends = facts.on("native", precision)
    on_cpu = [each for each in backends if each.device == "cpu"]
    on_gpu = [each for each in backends if each.device == "cuda"]
    parts = []
    if on_cpu:
        by = instructions(precision, facts.features)
        parts.append(f"{named(on_cpu)} can compute in it here" + (f", with {by}" if by else ""))
    if on_gpu and facts.gpu is not None:
        title, (major, minor) = facts.gpu
        parts.append(
            f"{named(on_gpu)} can compute in it on {title} (compute capability {major}.{minor})"
        )
    return computed(f"{'; '.join(parts)}.", "try") if parts else None


def no_dot_products(facts: Facts, precision: str) -> Sentence | None:
    """int8 without instructions for it."""
    on_cpu = any(each.device == "cpu" for each in facts.on("native", precision))
    if not on_cpu or instructions(precision, facts.features):
        return None
    return computed(
        "The processor has no instructions for products of bytes (VNNI, AMX, or Arm's), so int8"
        " gains little here.",
        "no use",
    )


def seven_bits(facts: Facts, precision: str) -> Sentence | None:
    """Why weights lose a bit in files for CPUs."""
    if not any(each.device == "cpu" for each in facts.on("native", precision)):
        return None
    this = "this one does not" if instructions(precision, facts.features) else "this is one"
    return known(
        "Files for CPUs keep weights within seven bits: processors without VNNI need that, and"
        f" {this}.",
        "this toolkit",
    )


def without_amx(facts: Facts, precision: str) -> Sentence | None:
    """bf16 on a vector unit."""
    measured = facts.ceilings is not None and not facts.ceilings.disturbed
    on_cpu = any(each.device == "cpu" for each in facts.on("native", precision))
    if measured or not on_cpu or instructions(precision, facts.features) != "AVX-512 BF16":
        return None
    return known(
        "Without AMX it depends on the processor: there, products in bf16 were slower than in fp32,"
        " 0.21 against 0.33 Top/s.",
        "a 2-core Xeon, oneDNN kept from AMX, 2026-11-27",
    )


def emulated(facts: Facts, precision: str) -> Sentence | None:
    """Runtimes that emulate it."""
    backends = facts.on("emulated", precision)
    if not backends:
        return None
    verb = "emulates" if len(backends) == 1 else "emulate"
    return computed(
        f"The processor has no instructions for {precision}: {named(backends)} {verb} it, which"
        " costs more than fp32.",
        "no use",
    )


def in_float32(facts: Facts, precision: str) -> Sentence | None:
    """Runtimes that compute in float32 whatever the file says."""
    backends = facts.on("float32", precision)
    if not backends:
        return None
    return known(
        f"{named(backends)} computes {precision} files in float32: the logits are right, nothing is"
        " faster, and a benchmark says INVALID.",
        "ONNX Runtime's CPU provider up to 1.31",
        "no use",
    )


def refused(facts: Facts, precision: str) -> Sentence | None:
    """Runtimes that refuse on this device."""
    backends = facts.on("refused", precision)
    if not backends:
        return None
    alone = len(backends) == len([each for each in facts.usable if precision in each.ways])
    device = (
        f"{facts.gpu[0]} does not compute in it"
        if facts.gpu is not None and any(each.device == "cuda" for each in backends)
        else "the processor does not compute in it"
    )
    verb = "refuses" if len(backends) == 1 else "refuse"
    return computed(
        f"{named(backends)} {verb} it: {device}.",
        "cannot" if alone else None,
    )


def floor(facts: Facts, precision: str) -> Sentence | None:
    """The floor against that of fp32: a limit, not a promise."""
    own, base = facts.layers_ns(precision), facts.layers_ns(DEFAULT)
    ceilings = facts.ceilings
    if own is None or base is None or ceilings is None or not facts.on("native", precision):
        return None
    if precision == DEFAULT:
        return computed(
            f"Its floor, layer by layer, is {_ms(own)} at batch {facts.batch}: a limit, and no"
            " promise."
        )
    line = (
        f"Its floor, layer by layer, is {_ms(own)} at batch {facts.batch}; that of fp32 is"
        f" {_ms(base)}, {base / own:.2g} times as long: limits, and no promise."
    )
    if base < _WORTH * own:
        line = (
            f"Its floor, layer by layer, is {_ms(own)} at batch {facts.batch}, hardly below or even"
            f" above fp32's {_ms(base)}: its products are too slow on this device."
        )
    if ceilings.disturbed:  # one precision may have been, and another not
        return computed(f"{line} The ceilings behind it were disturbed.")
    return computed(line, "no use" if base < _WORTH * own else "try")


def launches(facts: Facts) -> Sentence | None:
    """What starting the kernels of a GPU takes, against the floor."""
    ceilings, floor_ns = facts.ceilings, facts.layers_ns()
    if ceilings is None or floor_ns is None or ceilings.device != "cuda":
        return None
    ns = ceilings.launch_ns * len(facts.layers)
    if ns < _LAUNCHES * floor_ns:
        return None
    return computed(
        f"Starting {len(facts.layers)} kernels takes {_ms(ns)} in a CUDA graph, {ns / floor_ns:.0%}"
        f" of the floor at batch {facts.batch}: a lower precision gains less here than at larger"
        " batches."
    )


def classifier(facts: Facts, precision: str) -> Sentence | None:
    """What stays wider."""
    if not facts.on("native", precision):
        return None
    macs = {layer.name: layer.macs for layer in facts.layers}
    return known(
        f"The classifier stays {wider(facts.layers, precision)['fc']}, with"
        f" {macs['fc'] / sum(macs.values()):.2%} of the multiply-accumulates.",
        "this toolkit",
    )


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.3g} ms"
