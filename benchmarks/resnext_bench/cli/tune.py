"""The command ``resnext-export tune``: the artifact that runs best on this machine."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from resnext.cli.app import SETTINGS, as_flags, echo, guarded
from resnext.cli.options import (
    OUTPUT,
    RUN,
    backend_option,
    chosen_weights,
    device_option,
    json_option,
    preprocessing_options,
    requested_preprocessing,
    seed_option,
    weights_options,
)
from resnext.cli.params import CountsType, MinutesType, NameType
from resnext.cli.sections import Remembering, SectionedCommand, option_of, typed
from resnext.errors import GateFailed
from resnext.precision import PRECISIONS, Precision
from resnext.progress import steps
from resnext.runtimes.registry import LOCAL_ARTIFACT_RUNTIMES
from resnext.storage import check_writable, write_text
from resnext_bench.deadline import Deadline

if TYPE_CHECKING:
    from resnext_bench.tune.record import Goal
    from resnext_bench.tune.result import Tuned

_EPILOG = """\b
Examples:
  resnext-export tune --weights digits --goal latency --budget 2m --output best/
  resnext-export tune --weights net.pth --goal throughput --calibration photos/ --output best/
  resnext-export tune --weights net.pth --slo 'p99<=20ms' --batch 1,8 --output best/
  resnext-export tune --weights fashion-mnist --gate 'agreement>=0.995,size<=1MB' --output best/
  resnext-export tune --weights digits --backend openvino --precision fp32,int8 --output best/
  resnext-export tune --weights digits --budget 10m --output best/ --resume     after Ctrl-C
best/ holds the artifact, tune.json (every candidate, and why it fell) and tune.html.
Exit code 1: no candidate meets every gate, or the budget is too short for one. 130: interrupted;
what was measured is kept, and the leader written if it has passed.
"""

_goal = option_of("Goal")
_measuring = option_of("Measuring")
_device = option_of("Device")
_right = option_of("Accuracy and calibration")


class _Tune(Remembering, SectionedCommand):
    """Stored searches say how the command was typed."""


@click.command("tune", cls=_Tune, context_settings=SETTINGS, epilog=_EPILOG)
@_goal(
    "--goal",
    type=NameType("goal", ("latency", "throughput")),
    default="latency",
    show_default=True,
    metavar="latency|throughput",
    help="Least time of a run, or most images per second.",
)
@_goal(
    "--slo",
    metavar="'p99<=20ms'",
    help="Limits on the time of a run: p50, p90, p99. A percentile is a bound with 99 % confidence,"
    " proven with enough runs; what is not proven does not pass.",
)
@_goal(
    "--gate",
    metavar="'NAME>=VALUE,...'",
    help="Other limits: agreement and top1 (at least), top1-loss, size and memory (at most):"
    " agreement>=0.99,top1-loss<=1%,size<=50MB.  [default with labeled images: agreement>=0.98,"
    "top1-loss<=1%]",
)
@backend_option(
    LOCAL_ARTIFACT_RUNTIMES,
    "Runtimes to try.  [default: all that this machine has and that run artifacts]",
    many=True,
)
@option_of(RUN)(
    "--precision",
    type=NameType("precision", tuple(PRECISIONS), many=True),
    metavar=f"{'|'.join(PRECISIONS)}[,...]",
    help="Element types to try.  [default: all]",
)
@option_of(RUN)(
    "--batch",
    type=CountsType(),
    help="Batch sizes to try.  [default: 1; for throughput also 8, and 64 for a small network]",
)
@weights_options
@preprocessing_options
@_measuring(
    "--budget",
    type=MinutesType(),
    metavar="TIME",
    help="Minutes that the search may take, or 90s, 2h: nothing is built after half of them."
    "  [default: no limit]",
)
@seed_option("Seed for the test images and for the order of visits.", "Measuring")
@device_option()
@_device(
    "--threads",
    type=CountsType(),
    help="CPU threads to try.  [default: the least of physical cores, affinity, CPU quota and"
    " OMP_NUM_THREADS]",
)
@_device(
    "--streams",
    type=CountsType(),
    help="Requests in flight to try, which share the threads.  [default: 1; for throughput also 2]",
)
@_right(
    "--accuracy",
    metavar="digits|fashion-mnist|FOLDER",
    help="Labeled images (a folder in ImageNet's layout, or tar or Parquet files).  [default:"
    " the test images of shipped weights]",
)
@_right(
    "--accuracy-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of labeled images: a seeded sample, balanced over classes.  [default: 1000]",
)
@_right(
    "--calibration",
    metavar="digits|fashion-mnist|FOLDER|random",
    help="Calibration images for int8 and fp8.  [default: what shipped weights were trained on]",
)
@_right(
    "--calibration-images",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Number of calibration images.  [default: 128]",
)
@option_of(OUTPUT)(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="Folder for the artifact, tune.json and tune.html.",
)
@option_of(OUTPUT)(
    "--resume",
    is_flag=True,
    help="Go on with a search that was cut short: DIR.tune.json keeps what it knows.",
)
@option_of(OUTPUT)(
    "--force",
    is_flag=True,
    help="Replace an artifact that is already in DIR, and forget a search that was cut short.",
)
@json_option("Write the search as JSON, too")
@click.pass_context
@guarded
def tune(
    ctx: click.Context,
    /,
    goal: Goal,
    slo: str | None,
    gate: str | None,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None,
    backend: tuple[str, ...] | None,
    precision: tuple[Precision, ...] | None,
    batch: tuple[int, ...] | None,
    device: Literal["auto", "cpu", "cuda"],
    threads: tuple[int, ...] | None,
    streams: tuple[int, ...] | None,
    accuracy: str | None,
    accuracy_images: int | None,
    calibration: str | None,
    calibration_images: int | None,
    budget: float | None,
    seed: int,
    output: Path,
    resume: bool,
    force: bool,
    json_path: str | None,
    **pixels: Any,
) -> None:
    """Find the artifact that runs best on this machine among those that meet every gate.

    Every runtime, precision, width of groups, batch and number of streams that the machine offers
    is built, proven against PyTorch, and raced; the winner is measured again in fresh processes.
    """
    check_writable(json_path)
    deadline = Deadline(None if budget is None else 60 * budget, (signal.SIGINT, signal.SIGTERM))
    from resnext_bench.tune.gates import parsed_gates

    parsed_gates(gate, slo)  # before anything is loaded
    requested, input_size = requested_preprocessing(pixels, input_size, of_artifact=False)
    weights = chosen_weights(model, spec, num_classes, input_size, weights_key, requested)
    from resnext_bench.tune.api import tune_artifact

    with steps("starting") as say:
        tuned = tune_artifact(
            weights,
            output,
            goal=goal,
            slo=slo,
            gate=gate,
            backends=backend,
            precision=precision,
            batch=batch,
            threads=threads,
            streams=streams,
            device=device,
            calibration=calibration,
            calibration_images=calibration_images,
            accuracy=accuracy,
            accuracy_images=accuracy_images,
            seed=seed,
            budget=deadline,
            resume=resume,
            force=force,
            command=("resnext-export", "tune", *typed(ctx)),
            progress=say,
            note=lambda line: echo(f"note: {as_flags(line)}", err=True),
        )
    if json_path is not None:
        write_text(json_path, tuned.model_dump_json() + "\n")
    _show(tuned, to_stderr=json_path == "-")
    if tuned.pick is not None:
        echo(f"wrote {output} (tune.html shows the search)", err=True)
    if deadline.interrupted:
        echo("interrupted; what was measured is kept, and --resume goes on with it", err=True)
        sys.exit(130)
    if tuned.pick is None:
        raise GateFailed(_nothing(tuned))


def _show(tuned: Tuned, *, to_stderr: bool) -> None:
    from resnext_bench.report.grid import screen
    from resnext_bench.tune.report import show

    show(tuned, screen(to_stderr=to_stderr), spell=as_flags)


def _nothing(tuned: Tuned) -> str:
    """Why there is no artifact, with the nearest misses."""
    from resnext_bench.tune.fallen import nearest

    missed = nearest(tuned)
    if tuned.ended == "time":
        return (
            "time was up before a candidate was known to pass; give a longer `budget`, and `resume`"
        )
    tried = sum(one.outcome != "baseline" for one in tuned.candidates)
    text = f"no candidate of {tried} passed"
    return f"{text}; the nearest: {'; '.join(missed)}" if missed else text
