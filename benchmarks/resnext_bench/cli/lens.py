"""The command ``resnext-bench lens``: where the time of one run goes."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.cli.app import SETTINGS, as_flags, guarded
from resnext.cli.options import (
    OUTPUT,
    RUN,
    backend_option,
    chosen_weights,
    json_option,
    trust_options,
    weights_options,
)
from resnext.cli.params import NameType
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import UsageError
from resnext.precision import PRECISIONS, Precision
from resnext.progress import steps
from resnext.runtimes.registry import LOCAL_RUNTIMES, RUNTIMES
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext_bench.lens.look import Lens
    from resnext_bench.lens.parts import Part

_TIMED = tuple(name for name, runtime in RUNTIMES.items() if runtime.times_layers)
_EPILOG = """\b
Examples:
  resnext-bench lens out/ --batch 8                        an artifact, on its natural runtime
  resnext-bench lens int8/ --backend openvino --layers     every layer, with its kernel
  resnext-bench lens --backend torch-folded --weights digits --batch 64
  resnext-bench lens out/ --json - | jq '.stages[] | [.stage, .kind, .ns]'
The runtime's own profiler times the layers: on a CPU, or an engine's on a GPU. Runs without it
are timed in turn, and a warning says when the layers do not add up to them.
"""
_LEGEND = {
    "ch/group": "input channels of a group",
    "MB": "inputs, outputs and weights, each once",
    "ms": "median of the profiled runs",
    "floor ms": "least time for these operations and bytes on this machine",
    "share": "of the time of all layers",
}
#: Columns that a narrow terminal does without, in the order of leaving.
_DROPPED_FIRST = ("ch/group", "GMAC", "MB", "requested", "kernel", "floor ms", "actual")
_HEADINGS = (
    "stage",
    "kind",
    "ch/group",
    "GMAC",
    "MB",
    "requested",
    "actual",
    "kernel",
    "ms",
    "floor ms",
    "share",
    "x floor",
)
_LEFT = ("stage", "kind", "layer", "requested", "actual", "kernel")
_what = option_of(RUN)


@click.command("lens", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("artifact", required=False, type=click.Path(path_type=Path))
@backend_option(
    LOCAL_RUNTIMES,
    f"Runtime; these report times of layers: {', '.join(_TIMED)}.  [default: the artifact's"
    " natural one, torch for weights]",
)
@_what(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Batch."
)
@_what(
    "--precision",
    type=NameType("precision", tuple(PRECISIONS)),
    metavar="|".join(PRECISIONS),
    help="Element type of weights and activations.  [default: the artifact's, else fp32]",
)
@_what(
    "--calibration",
    metavar="digits|fashion-mnist|FOLDER|random",
    help=(
        "Calibration images for int8, if there is no ARTIFACT.  [default: what shipped weights were"
        " trained on]"
    ),
)
@weights_options
@option_of("Device")(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads.  [default: the thread budget of this process]",
)
@option_of(OUTPUT)("--layers", "every_layer", is_flag=True, help="Print every layer that ran.")
@json_option("Write stages, layers, runs and sentences as JSON")
@guarded
@trust_options
def lens(
    artifact: Path | None,
    backend: str | None,
    batch: int,
    precision: Precision | None,
    calibration: str | None,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None,
    threads: int | None,
    every_layer: bool,
    json_path: str | None,
) -> None:
    """Show where the time of one run goes: by stage and type of layer, against the least time that
    this machine needs for it.
    """
    check_writable(json_path)
    if artifact is not None and any(
        (model, spec, num_classes, input_size, weights_key, calibration)
    ):
        raise UsageError(
            "an artifact has its own model, weights and calibration",
            hint=(
                "drop `model`, `spec`, `weights_key`, `num_classes`, `input_size` and `calibration`"
            ),
        )
    from resnext_bench.lens.look import look

    subject = artifact or chosen_weights(model, spec, num_classes, input_size, weights_key)
    with steps("starting") as say:
        seen = look(
            subject,
            backend,
            batch=batch,
            precision=precision,
            calibration=calibration,
            threads=threads,
            say=say,
        )
    if json_path is not None:
        write_text(json_path, json.dumps(_facts(seen), indent=2) + "\n")
    _show(seen, every_layer=every_layer, to_stderr=json_path == "-")


def _facts(seen: Lens) -> dict[str, object]:
    return {
        "format_version": 1,
        **{name: value for name, value in vars(seen).items() if name not in _NESTED},
        "environment": seen.environment.model_dump(mode="json"),
        "ceilings": seen.ceilings.model_dump(mode="json"),
        "layers": [asdict(part) for part in seen.layers],
        "stages": [asdict(part) for part in seen.stages],
        "findings": [asdict(finding) for finding in seen.findings],
        "sentences": [as_flags(text) for text in seen.sentences],
        "sum_share": seen.sum_share,
    }


_NESTED = ("environment", "ceilings", "layers", "stages", "findings", "sentences")


def _show(seen: Lens, *, every_layer: bool, to_stderr: bool) -> None:
    from resnext_bench.report.grid import draw, say, screen

    console = screen(to_stderr=to_stderr)
    environment = seen.environment
    threads = f", threads: {seen.notes['threads']}" if "threads" in seen.notes else ""
    say(f"{environment.title()}, load {environment.load_1min:.1f}{threads}", console)
    say(
        f"{seen.model or 'custom model'}, weights {seen.source}, {seen.precision},"
        f" {seen.backend}, batch {seen.batch}",
        console,
    )
    headings = ("stage", "layer", *_HEADINGS[2:]) if every_layer else _HEADINGS
    rows = [
        _cells(part, " + ".join(part.names) if every_layer else part.kind, seen.layers_ns)
        for part in (seen.layers if every_layer else seen.stages)
    ]
    kept, dropped = draw(
        headings,
        rows,
        console,
        left=_LEFT,
        folded=headings[1],
        dropped_first=_DROPPED_FIRST,
    )
    say(". ".join(f"{each}: {text}" for each, text in _LEGEND.items() if each in kept), console)
    if dropped:
        say(f"not shown: {', '.join(dropped)} (wider terminal or --json)", console)
    say(
        f"layers {seen.layers_ns / 1e6:.2f} ms, run without profiling"
        f" {statistics.median(seen.run_ns) / 1e6:.2f} ms (median of {len(seen.run_ns)}): layers add"
        f" up to {seen.sum_share:.0%} of the run",
        console,
    )
    for finding in seen.findings:
        say(as_flags(f"warning: {finding}"), console)
    for text in seen.sentences:
        say(as_flags(text), console)


def _cells(part: Part, name: str, total_ns: float) -> tuple[str, ...]:
    shown = part.kernels or part.ops
    return (
        part.stage,
        name,
        "-" if part.channels is None else " to ".join(map(str, dict.fromkeys(part.channels))),
        f"{part.macs / 1e9:.3f}" if part.macs else "-",
        f"{part.bytes / 1e6:.1f}" if part.bytes else "-",
        part.requested or "-",
        ", ".join(part.actual),
        (shown[0] + (f" +{len(shown) - 1}" if len(shown) > 1 else "")) if shown else "-",
        f"{part.ns / 1e6:.3f}",
        "-" if part.floor_ns is None else f"{part.floor_ns / 1e6:.3f}",
        f"{part.ns / total_ns:.1%}",
        "-" if part.times_floor is None else f"{part.times_floor:.1f}",
    )
