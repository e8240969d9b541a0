"""The command ``resnext-export explain``: what to expect from each precision, before a build."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.cli.app import SETTINGS, as_flags, guarded
from resnext.cli.options import (
    RUN,
    backend_option,
    chosen_weights,
    json_option,
    network_options,
    size_of,
    trust_options,
)
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import BadInput, UnknownName, UsageError
from resnext.network.config import VARIANTS, ResNeXtConfig, variant
from resnext.precision import DEFAULT, PRECISIONS, QUANTIZED
from resnext.progress import steps
from resnext.readers.files import exists, is_folder
from resnext.runtimes.registry import LOCAL_RUNTIMES
from resnext.storage import check_writable, write_text
from resnext.weights.shipped import SHIPPED

if TYPE_CHECKING:
    from resnext_bench.explain.explanation import Subject
    from resnext_bench.explain.record import ExplanationRecord
    from resnext_bench.explain.sentence import Sentence
    from resnext_bench.report.grid import Screen

_EPILOG = """\b
Examples:
  resnext-export explain checkpoint.pth             what to expect from it on this machine
  resnext-export explain resnext50_32x4d --batch 1  a network, whatever its weights
  resnext-export explain out/                       an artifact, with what is proven of it
  resnext-export explain digits --backend openvino
  resnext-export explain checkpoint.pth --target sm_89    an engine for another machine's GPU
  resnext-export explain out/ --json - | jq '.topics[] | [.topic, .outlook]'
Nothing is built or timed. Each sentence says where it is from: computed from the network, this
machine and the weights; a known limit, with the release; or measured on this machine before.
"""
#: Every runtime that this machine has, as resnext-bench takes it.
ALL = "all"
_WORDS = {
    "baseline": "the baseline",
    "cannot": "cannot",
    "faster": "was faster",
    "slower": "was slower",
    "same": "no clear difference",
    "no use": "no use",
    "try": "worth a try",
}
_DROPPED_FIRST = ("layers", "weights", "limit", "bf16 us", "fp16 us")
_what = option_of(RUN)


@click.command("explain", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("subject", metavar="PATH|SPEC")
@backend_option(
    [name for name in LOCAL_RUNTIMES if name != "onnx-reference"],
    "Runtimes to explain.  [default: all that this machine has; trt and trt-rtx for another"
    " machine's GPU]",
    many=True,
)
@_what(
    "--target",
    metavar="sm_XY",
    help="Compute capability of a GPU that is not here, for example sm_89.",
)
@_what(
    "--batch",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Images in one run, for the floors.",
)
@_what(
    "--history",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Stored runs.  [default: every folder that resnext-bench history has read]",
)
@_what(
    "--weights",
    "spec",
    metavar="SPEC",
    help="Where the weights of an artifact are now, if they have moved.",
)
@network_options
@json_option("Write stages, outlooks and sentences as JSON")
@guarded
@trust_options
def explain(
    subject: str,
    backend: tuple[str, ...] | None,
    target: str | None,
    batch: int,
    history: Path | None,
    spec: str | None,
    model: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None,
    json_path: str | None,
) -> None:
    """Say what to expect from fp16, bf16, int8, fp8 and merged groups, before anything is built.

    PATH|SPEC is an artifact, a folder of one, a checkpoint, published weights by name, shipped
    weights, or a variant of the network.
    """
    check_writable(json_path)
    capability = None if target is None else _capability(target)
    if capability is not None:
        from resnext_bench.explain.backends import backends_for

        backends_for(backend, capability)  # refuses those that do not run there, before the work
    notes: list[str] = []
    from resnext.artifact.foreign import open_artifact
    from resnext_bench.explain.explanation import explain as explained
    from resnext_bench.explain.explanation import subject_of_artifact

    with steps("reading the network and its weights") as say:
        known = subject in VARIANTS or subject in SHIPPED
        if known and exists(Path(subject)):
            notes.append(f"{subject} is taken as a name: for the file or folder write ./{subject}")
        if not known and _is_artifact(Path(subject)):
            if any(each is not None for each in (model, num_classes, input_size, weights_key)):
                raise UsageError(
                    "an artifact has its own model",
                    hint="drop `model`, `num_classes`, `input_size` and `weights_key`",
                )
            chosen = subject_of_artifact(open_artifact(Path(subject)), spec, notes.append)
        elif spec is not None:
            raise UsageError(f"{subject} says what the weights are", hint="drop `spec`")
        else:
            chosen = _network(subject, model, num_classes, input_size, weights_key)
        say("asking this machine and its runtimes")
        record = explained(
            chosen,
            batch=batch,
            backends=backend,
            target=capability,
            history=history,
        )
    record = record.model_copy(update={"notes": (*notes, *record.notes)})
    if record.ceilings is None and target is None:
        line = (
            "there are no floors, since what this machine can do at most was never measured:"
            " resnext-bench limits does so in ten seconds"
        )
        record = record.model_copy(update={"notes": (*record.notes, line)})
    if json_path is not None:
        write_text(json_path, record.model_dump_json(indent=2) + "\n")
    if json_path != "-":
        usable = [name for name, problem in record.backends.items() if not problem]
        _show(record, ",".join(usable) if backend is not None else ALL)


def _capability(target: str) -> tuple[int, int]:
    match = re.fullmatch(r"sm_(\d{1,2})(\d)", target)
    if match is None:
        raise UsageError(
            f"`target` {target!r} is no compute capability", hint="write sm_89 for 8.9"
        )
    return int(match[1]), int(match[2])


def _is_artifact(path: Path) -> bool:
    """Whether ``path`` can only be an artifact, or an ONNX file from elsewhere; a checkpoint may
    lie beside one.
    """
    from resnext.artifact.manifest import MANIFEST_NAME, read_manifest

    if not exists(path):
        return False
    if is_folder(path) or path.suffix == ".onnx" or path.name == MANIFEST_NAME:
        return True
    try:
        return read_manifest(path.parent / MANIFEST_NAME).file == path.name
    except BadInput:
        return False


def _network(
    name: str,
    model: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None,
) -> Subject:
    """What ``name`` stands for: a variant, generated weights, or trained ones."""
    from resnext_bench.explain.explanation import Subject

    is_variant = name in VARIANTS
    plain = re.fullmatch(r"[\w-]+", name) and name not in (*SHIPPED, "seeded")
    if plain and not is_variant and not exists(Path(name)):
        raise UnknownName("network or weights", name, (*VARIANTS, *SHIPPED))
    if is_variant and (model, weights_key) != (None, None):
        raise UsageError(
            f"{name} is a network without weights", hint="drop `model` and `weights_key`"
        )
    if is_variant or name.partition(":")[0] == "seeded":
        # Generated weights say nothing of trained ones.
        return Subject(_sized(name if is_variant else model, num_classes, input_size))
    weights = chosen_weights(model, name, num_classes, input_size, weights_key)
    return Subject(weights.config, weights)


def _sized(model: str | None, num_classes: int | None, input_size: str | None) -> ResNeXtConfig:
    config = variant(model or "resnext50_32x4d")
    return replace(
        config,
        num_classes=num_classes or config.num_classes,
        input_size=config.input_size if input_size is None else size_of(input_size),
    )


def _show(record: ExplanationRecord, backends: str) -> None:
    from resnext_bench.report.grid import say, screen

    console = screen()
    exporter = click.get_current_context().find_root().command  # whose options sentences name
    model = record.model or "custom model"
    weights = f", weights {record.weights}" if record.weights else ""
    say(f"{model}{weights}, batch {record.batch}", console)
    about = (
        record.machine if record.target is None else f"a GPU of {record.target}, not this machine"
    )
    say(f"{about}; {', '.join(record.backends) or 'no runtime'}", console)
    if record.ceilings is not None:
        say(f"floors of {record.ceilings}", console)
    say("", console)
    _table(record, console)
    for topic in record.topics:
        say("", console)
        say(f"{topic.topic}: {_WORDS[topic.outlook]}", console, "bold")
        for sentence in topic.sentences:
            say(f"- {as_flags(_line(sentence), exporter)}", console)
    if record.notes:
        say("", console)
    for line in record.notes:
        say(as_flags(f"note: {line}"), console)
    if command := _measuring(record, backends):
        say("", console)
        say(f"to measure it: {command}", console)


def _measuring(record: ExplanationRecord, backends: str) -> str:
    """The command that measures what is worth a try on this machine; "" if nothing is."""
    worth = [each.topic for each in record.topics if each.outlook == "try"]
    precisions = [name for name in PRECISIONS if name in worth]
    if record.target is not None or not worth or not backends:
        return ""
    words = ["resnext-bench", "--backend", backends, "--batch", str(record.batch)]
    if record.weights is not None:
        words += ["--weights", record.weights]
    elif record.model is not None:
        words += ["--model", record.model]
    words += ["--precision", ",".join([DEFAULT, *precisions])] if precisions else []
    words += ["--merge-groups", "off,32"] if len(worth) > len(precisions) else []
    texts = [each.text for topic in record.topics for each in topic.sentences]
    images = any("`calibration`" in text for text in texts) and set(precisions) & set(QUANTIZED)
    return shlex.join(words) + " --calibration FOLDER" * bool(images)


def _line(sentence: Sentence) -> str:
    source = sentence.source + (f" ({sentence.where})" if sentence.where else "")
    return f"{source}: {sentence.text}"


def _table(record: ExplanationRecord, console: Screen) -> None:
    from resnext_bench.report.grid import draw

    shown = [name for name in PRECISIONS if any(name in each.floors_ns for each in record.stages)]
    headings = [
        *("stage", "kind", "layers", "ch/group", "MACs", "weights"),
        *(f"{name} us" for name in shown),
        *(["limit"] if shown else []),
    ]
    rows = [
        [
            each.stage,
            each.kind,
            str(each.layers),
            " to ".join(map(str, dict.fromkeys(each.channels))),
            f"{each.macs / record.macs:.1%}",
            f"{each.weights / record.parameters:.1%}",
            *(f"{each.floors_ns[name] / 1e3:,.0f}" for name in shown),
            *([_limits(each.limited_by)] if shown else []),
        ]
        for each in record.stages
    ]
    draw(
        headings,
        rows,
        console,
        left=("stage", "kind", "limit"),
        folded="kind",
        dropped_first=_DROPPED_FIRST,
    )


def _limits(limited_by: Mapping[str, str]) -> str:
    """What limits most precisions, and those that something else limits."""
    by: dict[str, list[str]] = {}
    for precision, limit in limited_by.items():
        by.setdefault(limit, []).append(precision)
    if len(by) == 1:
        return next(iter(by))
    return "; ".join(f"{limit}: {' '.join(names)}" for limit, names in by.items())
