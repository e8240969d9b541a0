"""Sentences on what TensorRT is known for with grouped convolutions."""

from __future__ import annotations

from resnext_export import left_by_fp8

from .facts import Facts
from .sentence import Sentence, known
from .stages import merges_of, stage_widths

#: Channels a group that int8 tensor cores take at a time.
_WIDE = 32


def typed(facts: Facts) -> Sentence | None:
    """Where a precision lives."""
    if not any(each.tensorrt11 for each in facts.usable):
        return None
    return known(
        "The file alone says what each layer computes in: precision flags and calibrators are"
        " gone, so each precision is a file of its own.",
        "TensorRT 11",
    )


def half_groups(facts: Facts, precision: str) -> Sentence | None:
    """Half-precision grouped convolutions without a kernel."""
    if not facts.grouped or not any(each.tensorrt11 for each in facts.on("native", precision)):
        return None
    return known(
        f"Some grouped convolutions have no kernel in {precision}; a build that is refused for one"
        f" of these {len(facts.grouped)} is tried again with groups merged to 32 channels, then"
        " with float32 in their place (`fallbacks`).",
        "NVIDIA/TensorRT#4838, 11.2, open",
    )


def int8_groups(facts: Facts, precision: str) -> Sentence | None:
    """int8 grouped convolutions slower than fp16 ones."""
    if not facts.grouped or not any(each.tensorrt for each in facts.on("native", precision)):
        return None
    macs = sum(layer.macs for layer in facts.layers)
    share = sum(layer.macs for layer in facts.grouped) / macs
    narrow = stage_widths(facts.grouped, below=_WIDE)
    wide = (
        f"; tensor cores want {_WIDE} channels a group, and {narrow} have fewer (`merge_groups`"
        f" {_WIDE})"
        if narrow
        else ""
    )
    return known(
        "Grouped int8 convolutions have run slower than fp16 ones, taken apart group by group:"
        f" {len(facts.grouped)} of {len(facts.layers) - 1} convolutions here, with {share:.1%} of"
        f" the multiply-accumulates{wide}.",
        "NVIDIA/TensorRT#4529, open",
    )


def fp8_left(facts: Facts, precision: str) -> Sentence | None:
    """Convolutions that an fp8 file leaves at fp16."""
    if not any(each.tensorrt for each in facts.on("native", precision)):
        return None
    left = dict(left_by_fp8(facts.layers))
    grouped = {layer.name for layer in facts.grouped} & set(left)
    if not grouped:
        return None
    merged = [merge for merge in merges_of(facts.config, facts.groups) if merge.width >= _WIDE]
    helps = ""
    if merged:
        still = [name for name, _ in left_by_fp8(merged[0].layers)]
        helps = f"; with `merge_groups` {merged[0].width} it is {len(still)} ({', '.join(still)})"
    return known(
        f"There are no fast fp8 kernels for narrow groups, so {len(left)} of"
        f" {len(facts.layers) - 1} convolutions stay fp16, {len(grouped)} of them grouped ones of"
        f" fewer than {_WIDE} channels{helps}.",
        "TensorRT's release notes, 10.12",
    )
