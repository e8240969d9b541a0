"""Each rule of an explanation speaks where it should, and is silent elsewhere: on machines and
networks that are made up.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes.here import HERE
from resnext.errors import UsageError
from resnext.findings import Finding
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.machine.machine import Machine
from resnext.network.config import VARIANTS, ResNeXtConfig
from resnext.network.layers import layers
from resnext.runtimes.registry import RUNTIMES
from resnext.runtimes.trt.library import RTX_TARGETS
from resnext_bench.explain import backends, explanation
from resnext_bench.explain.backends import (
    FOR_TARGET,
    TARGETS,
    backends_for,
    backends_here,
    cpu_ways,
    cuda_ways,
)
from resnext_bench.explain.facts import Backend, Facts, Seen, Timed, Values
from resnext_bench.explain.sentence import Outlook, Sentence
from resnext_bench.explain.stages import merges_of
from resnext_bench.explain.topics import MERGED, RULES, expectation
from resnext_bench.limits.ceilings import MachineCeilings, ProductCeiling

FIFTY = VARIANTS["resnext50_32x4d"]
VNNI = frozenset({"avx2", "avx512f", "avx512_vnni"})
AMX = VNNI | {"amx_int8", "amx_bf16", "avx512_bf16", "avx512_fp16"}
AVX2 = frozenset({"avx2"})
ON_CPU = ("torch", "ort-cpu", "openvino")


def cpu(
    features: frozenset[str] = VNNI,
    config: ResNeXtConfig = FIFTY,
    *,
    names: tuple[str, ...] = ON_CPU,
    openvino: tuple[str, ...] = (),
    **changes: Any,
) -> Facts:
    """A machine without a GPU."""
    backends = tuple(
        Backend(name, "cpu", cpu_ways(RUNTIMES[name], features, openvino)) for name in names
    )
    return replace(Facts(config, features=features, backends=backends), **changes)


def gpu(
    capability: tuple[int, int],
    config: ResNeXtConfig = FIFTY,
    *,
    names: tuple[str, ...] = FOR_TARGET,
    **changes: Any,
) -> Facts:
    """A GPU of another machine."""
    found = backends_for(names, capability)
    return replace(Facts(config, gpu=("a GPU", capability), backends=found), **changes)


def ceilings(**operations_per_s: float) -> MachineCeilings:
    """A CPU's, copying 33 GB/s."""
    return MachineCeilings(
        created="2026-11-27T00:00:00+00:00",
        machine="planted",
        torch="0",
        device="cpu",
        threads=2,
        products=tuple(
            ProductCeiling(precision=name, instructions="x", operations_per_s=speed)
            for name, speed in operations_per_s.items()
        ),
        copy_bytes_per_s=33e9,
        launch_ns=1.0,
    )


def said(facts: Facts, topic: str) -> str:
    """All sentences of a topic."""
    return "\n".join(sentence.text for sentence in expectation(facts, topic).sentences)


SLOW_BF16 = ceilings(fp32=3.3e11, bf16=1.8e11, int8=8.8e11)
H100 = ceilings(fp32=5e13, fp16=7e14).model_copy(
    update={"device": "cuda", "threads": None, "launch_ns": 2000.0, "copy_bytes_per_s": 3e12}
)
DISTURBED = SLOW_BF16.model_copy(update={"disturbed": ("other processes",)})
REFUSED = Values(refused={"fp16": "conv1: the largest value of 'conv1.weight', 7e+04, is beyond"})
LARGE = Values(largest=("layer3.4.conv2", 7e4), images=2)
NEAR = Values(largest=("layer3.4.conv2", 2e4), images=2)
SMALL = Values(largest=("fc", 10.0), images=2)
NAN = Values(largest=("layer3.4.conv2", float("nan")), images=2)
GONE = Values(
    vanishing={
        "int8": ("layer1.0.conv1", 0.4),
        "int8 in 7 bits": ("layer1.0.conv1", 0.6),
        "fp8": ("layer2.0.conv1", 0.9),
    }
)
ORT = Backend("ort-cpu", "cpu", {"fp32": "native", "int8": "native"})
ALL_MERGED = {layer.name: 1 for layer in layers(FIFTY) if layer.groups > 1}
PLAIN = VARIANTS["resnet50"]
WIDE = VARIANTS["resnext29_8x64d"]


def timed(precision: str, ms: float, *, merged: bool | None = False, **changes: Any) -> Timed:
    row = Timed("run.json", "2026-11-23", "openvino", precision, merged, 8, ms * 1e6)
    return replace(row, low_ns=ms * 0.98e6, high_ns=ms * 1.02e6, **changes)


BOTH = (
    timed("int8", 32),
    timed("int8", 31, merged=True),
    timed("int8", 43, backend="ort-cpu"),
    timed("int8", 25, backend="ort-cpu", merged=True),
    timed("fp32", 90),
    timed("fp32", 60, merged=True),
)

#: Topic; facts in which a sentence is said; what it says; like facts in which it is not.
SPOKEN: dict[str, tuple[str, Facts, str, Facts]] = {
    "fp32 is the baseline": (
        "fp32",
        cpu(),
        "torch, ort-cpu and openvino run it.",
        cpu(names=("torch",)),
    ),
    "nothing runs fp32": ("fp32", cpu(names=()), "no runtime runs it", cpu()),
    "a weight beyond fp16": (
        "fp16",
        cpu(values=REFUSED),
        "The export would refuse: conv1: the largest value of 'conv1.weight', 7e+04, is beyond.",
        cpu(values=SMALL),
    ),
    "fp8 files are fp16 besides": (
        "fp8",
        gpu((8, 9), values=REFUSED),
        "The export would refuse: conv1",
        gpu((8, 9), values=SMALL),
    ),
    "an activation beyond fp16": (
        "fp16",
        cpu(values=LARGE),
        "the largest activation is 7e+04 (layer3.4.conv2), beyond fp16's 65504: the export would",
        cpu(values=NEAR),
    ),
    "no number": ("bf16", cpu(values=NAN), "nan (layer3.4.conv2), beyond", cpu(values=SMALL)),
    "an activation near fp16's largest": (
        "fp16",
        cpu(values=NEAR),
        "fp16's largest number, 65504, is only 3.3 times that: another image may overflow.",
        cpu(values=SMALL),
    ),
    "an activation far below": (
        "fp16",
        cpu(AMX, values=SMALL),
        "fp16's largest number, 65504, is 6,550 times that.",
        cpu(AVX2, values=SMALL),
    ),
    "weights that vanish in seven bits": (
        "int8",
        cpu(values=GONE),
        "60% of the weights of layer1.0.conv1 would round to zero in int8 in 7 bits",
        gpu((8, 9), values=GONE),  # in eight bits fewer do
    ),
    "weights that vanish in fp8": (
        "fp8",
        gpu((8, 9), values=GONE),
        "90% of the weights of layer2.0.conv1 would round to zero in fp8",
        gpu((8, 9), values=SMALL),
    ),
    "images to calibrate on": (
        "int8",
        cpu(calibrated=False),
        "name a folder in `calibration`",
        cpu(calibrated=True),
    ),
    "instructions": (
        "int8",
        cpu(),
        "ort-cpu and openvino can compute in it here, with AVX-512 VNNI.",
        cpu(AMX),
    ),
    "tiles": ("int8", cpu(AMX), "here, with AMX.", cpu()),
    "no instructions for int8": (
        "int8",
        cpu(AVX2),
        "The processor has no instructions for products of bytes (VNNI, AMX, or Arm's)",
        cpu(),
    ),
    "seven bits are needed": ("int8", cpu(AVX2), "without VNNI need that, and this is one.", cpu()),
    "seven bits are not needed": (
        "int8",
        cpu(),
        "without VNNI need that, and this one does not.",
        gpu((8, 9)),
    ),
    "bf16 without AMX": (
        "bf16",
        cpu(VNNI | {"avx512_bf16"}),
        "Without AMX it depends on the processor: there, products in bf16 were slower",
        cpu(AMX),
    ),
    "nothing depends where the ceilings are known": (
        "bf16",
        cpu(VNNI | {"avx512_bf16"}, ceilings=DISTURBED),
        "Without AMX it depends on the processor",
        cpu(VNNI | {"avx512_bf16"}, ceilings=SLOW_BF16),
    ),
    "disturbed ceilings": (
        "int8",
        cpu(ceilings=DISTURBED),
        "limits, and no promise. The ceilings behind it were disturbed.",
        cpu(ceilings=SLOW_BF16),
    ),
    "bf16 without AMX, and its ceiling is known": (
        "bf16",
        cpu(VNNI | {"avx512_bf16"}, ceilings=SLOW_BF16),
        "hardly below or even above fp32's",
        cpu(VNNI | {"avx512_bf16"}),
    ),
    "fp16 is emulated": (
        "fp16",
        cpu(),
        "The processor has no instructions for fp16: torch emulates it",
        cpu(AMX),
    ),
    "ONNX Runtime computes fp16 in float32": (
        "fp16",
        cpu(AMX),
        "ort-cpu computes fp16 files in float32",
        cpu(AMX, names=("openvino",), openvino=("fp16",)),
    ),
    "OpenVINO refuses what the processor has not": (
        "bf16",
        cpu(AVX2),
        "openvino refuses it: the processor does not compute in it.",
        cpu(AMX, openvino=("bf16",)),
    ),
    "nobody runs fp8 on a CPU": (
        "fp8",
        cpu(),
        "torch, ort-cpu and openvino cannot run it; of all runtimes, trt and trt-rtx can, on a GPU:"
        " name one of another machine in `target`.",
        gpu((8, 9)),
    ),
    "a runtime is missing": (
        "int8",
        cpu(backends=(replace(ORT, problem="no onnxruntime"),)),
        "ort-cpu cannot run: no onnxruntime.",
        cpu(backends=(ORT,)),
    ),
    "no fp8 before Ada": (
        "fp8",
        gpu((8, 0)),
        "trt and trt-rtx refuse it: a GPU does not compute in it.",
        gpu((8, 9)),
    ),
    "no bf16 before Ampere": ("bf16", gpu((7, 5)), "refuse it: a GPU does not", gpu((8, 0))),
    "a GPU that computes in it": (
        "fp8",
        gpu((8, 9)),
        "trt and trt-rtx can compute in it on a GPU (compute capability 8.9).",
        gpu((9, 0)),  # only trt
    ),
    "floors of fp32": (
        "fp32",
        cpu(ceilings=SLOW_BF16),
        "ms at batch 8: a limit, and no promise.",
        cpu(),
    ),
    "a lower floor": (
        "int8",
        cpu(ceilings=SLOW_BF16),
        "times as long: limits, and no promise.",
        cpu(ceilings=ceilings(fp32=3.3e11, int8=1e11)),
    ),
    "launches count": (
        "fp32",
        gpu((9, 0), ceilings=H100, batch=1),
        "Starting 54 kernels takes 0.108 ms in a CUDA graph, ",
        gpu((9, 0), ceilings=H100, batch=64),
    ),
    "launches do not count on a CPU": (
        "fp32",
        gpu((9, 0), ceilings=H100, batch=1),
        "Starting 54 kernels",
        cpu(ceilings=SLOW_BF16, batch=1),
    ),
    "the classifier of int8": (
        "int8",
        cpu(),
        "The classifier stays fp32, with 0.05%",
        cpu(names=()),
    ),
    "the classifier of fp8": ("fp8", gpu((8, 9)), "The classifier stays fp16", gpu((8, 0))),
    "TensorRT 11 is strongly typed": (
        "fp32",
        gpu((8, 9), names=("trt",)),
        "precision flags and calibrators are gone",
        gpu((8, 9), names=("trt-rtx",)),
    ),
    "TensorRT 10 is not": (
        "fp32",
        gpu((8, 9), backends=(Backend("trt", "cuda", {"fp32": "native"}, version="11.4.0"),)),
        "precision flags and calibrators are gone",
        gpu((8, 9), backends=(Backend("trt", "cuda", {"fp32": "native"}, version="10.16.1"),)),
    ),
    "half-precision groups without a kernel": (
        "fp16",
        gpu((8, 9)),
        "Some grouped convolutions have no kernel in fp16; a build that is refused for one of these"
        " 16 is tried again",
        gpu((8, 9), PLAIN),
    ),
    "grouped int8 on TensorRT": (
        "int8",
        gpu((8, 9)),
        "16 of 53 convolutions here, with 5.5% of the multiply-accumulates; tensor cores want 32"
        " channels a group, and layer1 (4), layer2 (8) and layer3 (16) have fewer",
        gpu((8, 9), PLAIN),
    ),
    "narrow groups stay fp16 in fp8": (
        "fp8",
        gpu((8, 9)),
        "so 14 of 53 convolutions stay fp16, 13 of them grouped ones of fewer than 32 channels;"
        " with `merge_groups` 32 it is 1 (conv1).",
        gpu((8, 9), WIDE),
    ),
    "no fp8, no narrow groups": (
        "fp8",
        gpu((8, 9)),
        "stay fp16, 13 of them",
        gpu((8, 0)),
    ),
    "one group": (
        MERGED,
        cpu(config=PLAIN),
        "There is nothing to merge: every convolution has one group.",
        cpu(),
    ),
    "wide groups": (
        MERGED,
        cpu(config=WIDE),
        "There is nothing to merge: every group has 64 channels or more",
        cpu(config=VARIANTS["resnext101_32x8d"]),
    ),
    "groups that were merged into one": (
        MERGED,
        cpu(groups=ALL_MERGED),
        "There is nothing more to merge: every group has 64 channels or more, or all there are.",
        cpu(),
    ),
    "narrow groups": (
        MERGED,
        cpu(),
        "Groups are narrow in layer1 (4), layer2 (8) and layer3 (16)",
        cpu(config=WIDE),
    ),
    "what merging costs": (
        MERGED,
        cpu(),
        "4.23 G multiply-accumulates and 24.96 M weights become 4.42 G (+4.4%) and 25.07 M (+0.5%)"
        " at 16 channels a group; 4.79 G (+13.3%) and 25.72 M (+3.0%) at 32 channels a group; 5.59",
        cpu(config=PLAIN),
    ),
    "what sets the floor of grouped convolutions": (
        MERGED,
        cpu(ceilings=SLOW_BF16),
        "of the floor at fp32, which memory in layer1 and arithmetic in layer2, layer3 and layer4"
        " sets",
        cpu(config=PLAIN, ceilings=SLOW_BF16),
    ),
    "what merging adds to the floor": (
        MERGED,
        cpu(ceilings=SLOW_BF16),
        "Merged to 32 channels, the network's floor, layer by layer, grows by 13.0% at fp32",
        cpu(),
    ),
    "merging paid with VNNI on one runtime": (
        MERGED,
        cpu(),
        "merging made ort-cpu int8 1.38 times as fast with 32 channels a group and openvino int8 no"
        " faster (1.00 with 16, 0.91 with 32, 0.82 with 64 channels a group).",
        cpu(AMX),
    ),
    "merging paid on AMX": (
        MERGED,
        cpu(AMX),
        "merging made openvino int8 1.17 times as fast with 16 channels a group.",
        cpu(AMX, names=("torch", "ort-cpu")),
    ),
    "ort is ort-cpu on a processor": (
        MERGED,
        cpu(names=("ort",)),
        "merging made ort-cpu int8 1.38 times as fast",
        cpu(AVX2, names=("ort",)),
    ),
    "merging for TensorRT": (
        MERGED,
        gpu((8, 9)),
        "grouped convolutions have fp8 kernels, fill int8 tensor cores and have half-precision",
        gpu((8, 9), WIDE),
    ),
    "merging brings no kernels that were there": (
        MERGED,
        gpu((8, 9), names=("trt-rtx",)),
        "grouped convolutions have fp8 kernels and fill int8 tensor cores.",
        gpu((8, 9)),
    ),
    "merging brings no fp8 kernels where there is no fp8": (
        MERGED,
        gpu((7, 5)),
        "Merged to 32 channels, grouped convolutions fill int8 tensor cores and have",
        gpu((8, 9)),
    ),
    "measured": (
        "int8",
        cpu(timed=(timed("int8", 93.7), timed("fp32", 362.7, backend="ort-cpu"))),
        "openvino took 93.7 ms at batch 8, the fastest of fp32 (ort-cpu) 363 ms: 3.9 times as",
        cpu(timed=(timed("int8", 93.7), timed("fp32", 362.7, run="another.json"))),
    ),
    "merging was measured": (
        MERGED,
        cpu(timed=(timed("int8", 100.4, merged=True), timed("int8", 93.7))),
        "openvino took 100 ms at batch 8, unmerged int8 (openvino) 93.7 ms: 1.07 times as long.",
        cpu(timed=(timed("int8", 100.4, merged=True), timed("fp32", 93.7))),
    ),
    "merging was measured on several runtimes": (
        MERGED,
        cpu(timed=(*BOTH, *(replace(row, batch=1, created="2026-12-01") for row in BOTH))),
        "openvino took 31 ms at batch 8, unmerged int8 (openvino) 32 ms: no clear difference;"
        " ort-cpu took 25 ms at batch 8, unmerged int8 (ort-cpu) 43 ms: 1.72 times as fast.",
        cpu(timed=BOTH[:2]),
    ),
    "merging was measured at this batch, and int8 at another": (
        MERGED,
        cpu(timed=(*BOTH[4:], *(replace(row, batch=1) for row in BOTH[:4]))),
        "openvino took 60 ms at batch 8, unmerged fp32 (openvino) 90 ms: 1.50 times as fast.",
        cpu(timed=BOTH),
    ),
    "several requests in flight": (
        "int8",
        cpu(timed=(timed("int8", 10, streams=2), timed("fp32", 60))),
        "openvino took 10 ms in 2 streams at batch 8, the fastest of fp32 (openvino) 60 ms: 12"
        " times the throughput.",
        cpu(timed=(timed("int8", 10), timed("fp32", 60))),
    ),
    "a search in doubt": (
        "int8",
        cpu(timed=(timed("int8", 10, doubt="7 of 8 visits"), timed("fp32", 60))),
        "6 times as fast. The search is in doubt: 7 of 8 visits.",
        cpu(timed=(timed("int8", 10), timed("fp32", 60))),
    ),
    "whether a user's artifact is merged is not known": (
        MERGED,
        cpu(timed=(timed("int8", 100.4, merged=True), timed("int8", 93.7))),
        "unmerged int8",
        cpu(timed=(timed("int8", 100.4, merged=True), timed("int8", 93.7, merged=None))),
    ),
    "something was found": (
        "fp16",
        cpu(seen=(Seen("fp16", "An export found it.", "2026-11-23", "an export"),)),
        "An export found it.",
        cpu(seen=(Seen("bf16", "An export found it.", "2026-11-23", "an export"),)),
    ),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_a_rule_speaks_where_it_should_and_is_silent_elsewhere(name: str) -> None:
    topic, spoken, text, silent = SPOKEN[name]
    assert text in said(spoken, topic)
    assert text not in said(silent, topic)


def test_every_rule_speaks_in_a_case_of_the_table_and_is_silent_in_another() -> None:
    spoke, silent = set[str](), set[str]()
    for topic, *facts in ((case[0], case[1], case[3]) for case in SPOKEN.values()):
        for rule in RULES[topic]:
            name = getattr(rule, "func", rule).__name__
            for each in facts:
                (silent if rule(each) is None else spoke).add(name)
    every = {getattr(rule, "func", rule).__name__ for rules in RULES.values() for rule in rules}
    assert spoke == every
    assert silent == every - {"baseline"}  # fp32 is always there


OUTLOOKS: dict[str, tuple[Facts, str, Outlook]] = {
    "VNNI and int8": (cpu(), "int8", "try"),
    "AMX and bf16": (cpu(AMX, openvino=("bf16", "fp16")), "bf16", "try"),
    "no VNNI": (cpu(AVX2), "int8", "no use"),
    "bf16 without AMX": (cpu(VNNI | {"avx512_bf16"}), "bf16", "try"),
    "a slow product on a busy machine": (
        cpu(VNNI | {"avx512_bf16"}, ceilings=DISTURBED),
        "bf16",
        "try",
    ),
    "a slow product": (cpu(VNNI | {"avx512_bf16"}, ceilings=SLOW_BF16), "bf16", "no use"),
    "a fast product": (cpu(ceilings=SLOW_BF16), "int8", "try"),
    "fp16 in float32 only": (cpu(names=("ort-cpu",)), "fp16", "no use"),
    "only a runtime that refuses": (cpu(names=("openvino",)), "fp16", "cannot"),
    "fp8 on a CPU": (cpu(), "fp8", "cannot"),
    "fp8 on an A100": (gpu((8, 0)), "fp8", "cannot"),
    "fp8 on Ada": (gpu((8, 9)), "fp8", "try"),
    "fp16 with a weight beyond it": (cpu(AMX, values=REFUSED), "fp16", "cannot"),
    "fp16 with an activation beyond it": (gpu((9, 0), values=LARGE), "fp16", "cannot"),
    "bf16 holds the same": (gpu((9, 0), values=LARGE), "bf16", "try"),
    "one group": (gpu((8, 9), PLAIN), MERGED, "no use"),
    "narrow groups": (cpu(), MERGED, "try"),
    "a runtime that is missing": (cpu(backends=(replace(ORT, problem="no"),)), "int8", "cannot"),
    "measured to be faster": (
        cpu(AVX2, timed=(timed("int8", 93.7), timed("fp32", 362.7))),
        "int8",
        "faster",
    ),
    "measured to be slower": (
        cpu(timed=(timed("int8", 400), timed("fp32", 362.7))),
        "int8",
        "slower",
    ),
    "measured, and not told apart": (
        cpu(timed=(timed("int8", 355), timed("fp32", 362.7))),
        "int8",
        "same",
    ),
    "measured to be faster in a search that is in doubt": (
        cpu(timed=(timed("int8", 10, doubt="7 of 8 visits"), timed("fp32", 60))),
        "int8",
        "try",
    ),
    "merged groups were faster on one of two runtimes": (cpu(timed=BOTH), MERGED, "faster"),
    "merged groups were not faster at the batch that was asked for": (
        cpu(timed=(*BOTH[:2], *(replace(row, batch=1) for row in BOTH))),
        MERGED,
        "same",
    ),
    "fell in a search": (
        cpu(seen=(Seen("int8", "It fell.", "2026-11-23", "tune.json", outlook="no use"),)),
        "int8",
        "no use",
    ),
    "fp32": (cpu(), "fp32", "baseline"),
}


@pytest.mark.parametrize("name", OUTLOOKS)
def test_the_outlook_is_the_strongest_of_the_sentences(name: str) -> None:
    facts, topic, outlook = OUTLOOKS[name]
    assert expectation(facts, topic).outlook == outlook, said(facts, topic)


@pytest.mark.parametrize("model", VARIANTS)
@pytest.mark.parametrize("facts", [cpu(), cpu(AMX, ceilings=SLOW_BF16), gpu((8, 9)), gpu((12, 0))])
def test_every_variant_is_explained_in_whole_sentences(model: str, facts: Facts) -> None:
    facts = replace(facts, config=VARIANTS[model])
    for topic in RULES:
        found = expectation(facts, topic)
        assert found.sentences
        for sentence in found.sentences:
            assert (
                sentence.text[0].isupper()
                or sentence.text.split()[0] in RUNTIMES
                or (sentence.text.split(",")[0].split()[0] in RUNTIMES)
            )
            assert sentence.text.endswith(".")
            assert ".." not in sentence.text
            assert "nan" not in sentence.text


def test_a_sentence_that_is_known_or_measured_says_where() -> None:
    for topic, *facts in ((case[0], case[1], case[3]) for case in SPOKEN.values()):
        for each in facts:
            for sentence in expectation(each, topic).sentences:
                assert bool(sentence.where) == (sentence.source != "computed"), sentence


def test_a_newer_run_counts_and_one_of_the_same_batch_before_it() -> None:
    rows = [
        timed("int8", ms, created=day, run=day, batch=batch)
        for ms, day, batch in ((10, "2026-01-01", 8), (20, "2026-02-01", 8), (5, "2026-03-01", 1))
    ]
    rows += [timed("fp32", 40, created=row.created, run=row.run, batch=row.batch) for row in rows]
    assert "2 times as fast" in said(cpu(timed=tuple(rows)), "int8")
    assert "8 times as fast" in said(cpu(timed=tuple(rows), batch=1), "int8")
    assert expectation(cpu(timed=tuple(rows)), "int8").sentences[-1] == Sentence(
        text=(
            "openvino took 20 ms at batch 8, the fastest of fp32 (openvino) 40 ms: 2 times as fast."
        ),
        source="measured",
        where="2026-02-01, 2026-02-01",
        outlook="faster",
    )


def test_what_was_seen_at_another_batch_comes_last() -> None:
    seen = [Seen("int8", f"Text {day}.", f"2026-11-{day:02}", "a", batch=day) for day in (8, 20)]
    seen += [Seen("int8", f"Text {day}.", f"2026-11-{day:02}", "a") for day in (1, 2)]
    found = expectation(cpu(seen=tuple(seen)), "int8").sentences[-3:]
    assert [each.text for each in found] == ["Text 8.", "Text 2.", "Text 1."]


def test_the_same_is_said_once_and_the_newest_three_at_most() -> None:
    seen = [Seen("int8", f"Text {day % 5}.", f"2026-11-{day:02}", "a") for day in range(1, 11)]
    found = expectation(cpu(seen=tuple(seen)), "int8").sentences
    assert [each.text for each in found if each.where.endswith(", a")] == [
        "Text 0.",
        "Text 4.",
        "Text 3.",
    ]


def test_what_merging_costs_are_the_published_numbers_of_resnext_50() -> None:
    found = {merge.width: (merge.macs, merge.weights) for merge in merges_of(FIFTY, {})}
    rounded = {width: (round(m / 1e9, 2), round(w / 1e6, 2)) for width, (m, w) in found.items()}
    assert rounded == {16: (4.42, 25.07), 32: (4.79, 25.72), 64: (5.59, 27.89)}


def test_what_is_known_of_other_machines_is_what_their_runs_say() -> None:
    root = Path(__file__).parents[2]
    known = (root / "docs" / "concepts" / "limits.md").read_text()
    assert "| bf16 | AVX-512 BF16 | 0.212 |" in known
    assert "| fp32 | AVX-512 | 0.334 |" in known


def test_widths_that_an_artifact_has_already_are_left_out() -> None:
    merge32 = next(merge for merge in merges_of(FIFTY, {}) if merge.width == 32)
    groups = {layer.name: layer.groups for layer in merge32.layers if layer.groups > 1}
    assert [merge.width for merge in merges_of(FIFTY, groups)] == [64]


def test_the_stages_add_up_to_the_network() -> None:
    facts = cpu(ceilings=SLOW_BF16)
    assert sum(stage.macs for stage in facts.stages) == sum(layer.macs for layer in facts.layers)
    assert sum(stage.layers for stage in facts.stages) == 54
    grouped = [stage for stage in facts.stages if stage.kind == "grouped 3x3"]
    assert [stage.channels for stage in grouped] == [(4, 4), (8, 8), (16, 16), (32, 32)]
    limits = [stage.floors["fp32"].limited_by for stage in grouped]
    assert limits == ["memory", "compute", "compute", "compute"]


def test_the_floor_of_a_layer_that_stays_wider_is_that_of_the_wider_precision() -> None:
    *_, head = cpu(ceilings=SLOW_BF16, batch=1).stages
    assert head.floors["int8"] == head.floors["fp32"]
    ada = gpu((8, 9), ceilings=ceilings(fp32=5e13, fp16=7e14, fp8=1.4e15), batch=1)
    floors = {stage.stage + stage.kind: stage.floors for stage in ada.stages}
    assert floors["headfc"]["fp8"] == floors["headfc"]["fp16"]
    assert floors["layer1grouped 3x3"]["fp8"] == floors["layer1grouped 3x3"]["fp16"]
    assert floors["layer4grouped 3x3"]["fp8"].seconds < floors["layer4grouped 3x3"]["fp16"].seconds


@pytest.mark.parametrize(
    ("capability", "refused"),
    [
        ((7, 5), {"bf16", "fp8"}),
        ((8, 0), {"fp8"}),
        ((8, 9), set()),
        ((9, 0), set()),
    ],
)
def test_a_gpu_computes_in_what_its_capability_has(
    capability: tuple[int, int], refused: set[str]
) -> None:
    ways = cuda_ways(RUNTIMES["trt"], capability)
    assert {name for name, way in ways.items() if way == "refused"} == refused


ADA = Machine(Driver(None, 1, "13.0", (Gpu("a GPU", "8.9"),)), "linux-x86_64")
NO_GPU = Machine(Driver("no driver"), "linux-x86_64")
MISSING = Finding("not-installed", "no such package", "install it")


@pytest.mark.parametrize(
    ("name", "machine", "lacking", "expected"),
    [
        ("torch", ADA, (), ("cuda", {"fp32": "native", "fp16": "native", "bf16": "native"}, "")),
        ("torch", ADA, ("cuda",), ("cpu", {"fp32": "native", "fp16": "emulated"}, "")),
        ("torch", NO_GPU, (), ("cpu", {"fp32": "native", "bf16": "emulated"}, "")),
        ("ort", ADA, (), ("cuda", {"fp32": "native", "fp16": "native"}, "")),
        ("ort", NO_GPU, (), ("cpu", {"fp16": "float32", "int8": "native"}, "")),
        ("ort-cpu", ADA, (), ("cpu", {"fp16": "float32", "int8": "native"}, "")),
        ("ort-cpu", NO_GPU, ("auto",), ("cpu", {"int8": "native"}, "no such package")),
        ("trt", ADA, (), ("cuda", {"fp8": "native", "int8": "native"}, "")),
        ("trt", NO_GPU, ("auto",), ("cuda", {}, "no such package")),
        ("openvino", ADA, (), ("cpu", {"fp16": "refused", "bf16": "emulated"}, "")),
    ],
)
def test_a_runtime_of_this_machine_is_on_the_device_that_it_has(
    name: str,
    machine: Machine,
    lacking: tuple[str, ...],
    expected: tuple[str, dict[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(_: str, device: str = "auto", **__: Any) -> Finding | None:
        return MISSING if device in lacking else None

    monkeypatch.setattr(backends, "available", asked)
    monkeypatch.setattr(backends, "_openvino", lambda: frozenset({"bf16"}))
    (found,) = backends_here([name], VNNI, machine)
    device, ways, problem = expected
    assert (found.device, found.problem) == (device, problem)
    assert {precision: found.ways.get(precision) for precision in ways} == ways
    if name == "ort":
        assert ("int8" in found.ways) == (device == "cpu")


def test_every_runtime_that_somebody_deploys_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "available", lambda *_, **__: None)
    found = [each.name for each in backends_here(None, VNNI, NO_GPU)]
    assert found == [name for name in RUNTIMES if name in found]
    assert {"torch", "ort-cpu", "openvino", "pt2"} <= set(found)
    assert "onnx-reference" not in found  # node by node in NumPy


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Backend("trt", "cuda", {}), ("cuda", None)),
        (Backend("trt", "cuda", {}, problem="no such package"), ("cpu", 2)),
        (Backend("ort-cpu", "cpu", {}), ("cpu", 2)),
    ],
)
def test_the_ceilings_are_those_of_the_device_that_is_used(
    found: Backend, expected: tuple[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stored(_: Any, device: str, threads: int | None, *__: Any) -> None:
        asked.append((device, threads))

    monkeypatch.setattr(explanation, "backends_here", lambda *_: (found,))
    monkeypatch.setattr(explanation, "stored_ceilings", stored)
    monkeypatch.setattr(explanation, "thread_budget", lambda: SimpleNamespace(count=2))
    explanation._with_machine(Facts(FIFTY), HERE, None, None, lambda _: None)
    assert asked == [expected]


@pytest.mark.parametrize("gpu", [(0, 0), (3, 5), (7, 0), (8, 8), (99, 9)])
def test_a_gpu_that_tensorrt_does_not_build_for_is_refused(gpu: tuple[int, int]) -> None:
    assert set(RTX_TARGETS) <= set(TARGETS)
    with pytest.raises(UsageError, match=rf"sm_{gpu[0]}{gpu[1]} is no GPU .*sm_75, .*, sm_121"):
        backends_for(None, gpu)


def test_tensorrt_rtx_has_no_target_for_hopper() -> None:
    problems = {each.name: each.problem for each in backends_for(None, (9, 0))}
    assert problems["trt"] == ""
    assert problems["trt-rtx"].startswith("TensorRT-RTX has no target sm_90; it has sm_75")
