"""The topics of an explanation, each with its rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from . import merge_rules, past_rules, runtime_rules, tensorrt_rules, value_rules
from .facts import Facts
from .sentence import Outlook, PrecisionRule, Rule, Sentence, outlook_of

#: The topic that is no precision.
MERGED = "merged groups"


def _runtime(precision: str) -> Iterator[Rule]:
    yield from _of(
        precision,
        runtime_rules.nobody,
        runtime_rules.native,
        runtime_rules.emulated,
        runtime_rules.in_float32,
        runtime_rules.refused,
    )


def _half(precision: str) -> tuple[Rule, ...]:
    return (
        *_of(precision, value_rules.weight_refused, value_rules.activations),
        *_runtime(precision),
        *_of(
            precision,
            runtime_rules.without_amx,
            tensorrt_rules.half_groups,
            runtime_rules.floor,
            past_rules.measured,
        ),
    )


def _quantized(precision: str) -> Iterator[Rule]:
    yield from _of(
        precision,
        runtime_rules.classifier,
        value_rules.vanishing,
        value_rules.calibration,
        runtime_rules.floor,
        past_rules.measured,
    )


def _of(precision: str, *rules: PrecisionRule) -> Iterator[Rule]:
    for rule in rules:
        yield partial(rule, precision=precision)


#: Rules by topic, in the order of what they tell.
RULES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "fp32": (
            runtime_rules.baseline,
            tensorrt_rules.typed,
            *_of("fp32", runtime_rules.floor),
            runtime_rules.launches,
        ),
        "fp16": _half("fp16"),
        "bf16": _half("bf16"),
        "int8": (
            *_runtime("int8"),
            *_of(
                "int8",
                runtime_rules.no_dot_products,
                runtime_rules.seven_bits,
                tensorrt_rules.int8_groups,
            ),
            *_quantized("int8"),
        ),
        "fp8": (
            *_of("fp8", value_rules.weight_refused, value_rules.activations),
            *_runtime("fp8"),
            *_of("fp8", tensorrt_rules.fp8_left),
            *_quantized("fp8"),
        ),
        MERGED: (
            merge_rules.nothing_to_merge,
            merge_rules.narrow,
            merge_rules.cost,
            merge_rules.bound,
            merge_rules.floors,
            merge_rules.on_this_kind,
            merge_rules.for_tensorrt,
            past_rules.merged_measured,
        ),
    }
)


@dataclass(frozen=True)
class Expectation:
    """What to expect of one topic.

    Attributes:
        topic: a key of `RULES`.
        outlook: in one word.
        sentences: why.
    """

    topic: str
    outlook: Outlook
    sentences: tuple[Sentence, ...]


def expectation(facts: Facts, topic: str) -> Expectation:
    """What the rules say of ``topic``, and what was measured of it."""
    found = [sentence for rule in RULES[topic] if (sentence := rule(facts)) is not None]
    found += past_rules.seen(facts, topic)
    return Expectation(topic, outlook_of(found), tuple(found))
