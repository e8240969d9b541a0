"""The command ``resnext-bench``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from resnext.cli.app import SETTINGS, OneLineCommand, guarded
from resnext.cli.options import chosen_weights, json_option, weights_options
from resnext.cli.params import CountsType, NameType, SecondsType
from resnext.precision import PRECISIONS, QUANTIZED, Precision
from resnext.runtimes.registry import RUNTIMES
from resnext.storage import check_writable, write_text
from resnext.version import __version__

from .deadline import Deadline

if TYPE_CHECKING:
    from rich.console import Console

    from .result import Run
    from .run import Merge

_EPILOG = """\b
Examples:
  resnext-bench --backend torch,ort --batch 1,8               ResNeXt-50 32x4d, seeded weights
  resnext-bench --backend all --weights digits --batch 64     everything that this machine has
  resnext-bench --backend ort-cpu --artifact out/ --batch 1 --samples 662     enough for a p99
  resnext-bench --backend torch,ort --weights digits --accuracy digits     accuracy beside latency
  resnext-bench --backend trt --batch 64 --precision fp16     builds the engine once, then reuses it
  resnext-bench --backend ort,openvino --batch 8 --precision fp32,int8 --calibration photos/
  resnext-bench --backend ort --batch 8 --artifact int8/ --artifact int8-merged/
  resnext-bench --backend torch,torch-folded,ort-cpu --batch 8 --merge-groups off,32
  resnext-bench --backend all --batch 1,8 --max-seconds 300     a report after about five minutes
  resnext-bench --backend ort --batch 8 --json - | jq '.rows[].timings[].stats.median_ns'
Exit code 0: every row was measured and is right. 1: an output was wrong, a row is
invalid, or time ran out. 3, 4: a backend failed; its row says why. 130: interrupted;
once measuring has begun, what was measured is still compared, shown and written.
"""


#: Most channels that --merge-groups takes.
_WIDEST = 4096


class MergesType(CountsType):
    """Least widths of groups."""

    name = "off|N|auto[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and split."""
        if isinstance(value, tuple):
            return value
        found: list[Merge] = []
        for part in (part.strip() for part in str(value).split(",")):
            if part in ("off", "auto"):
                found.append(None if part == "off" else "auto")
            elif part.isascii() and part.isdigit() and 2 <= int(part) <= _WIDEST:
                found.append(int(part))
            else:
                self.fail(
                    f"{part!r} must be off, auto, or a number of channels from 2 to {_WIDEST}",
                    param,
                    ctx,
                )
        return tuple(dict.fromkeys(found))


@click.command(cls=OneLineCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.option(
    "--backend",
    "backends",
    type=NameType("backend", ("all", *RUNTIMES), many=True),
    required=True,
    metavar="NAME[,NAME...]",
    help=(
        f"What to measure: {', '.join(RUNTIMES)}, or all that this machine has. Speedups are"
        " against the first."
    ),
)
@click.option(
    "--batch", "batches", type=CountsType(), default="1", show_default=True, help="Batch sizes."
)
@weights_options
@click.option(
    "--precision",
    type=NameType("precision", tuple(PRECISIONS), many=True),
    metavar=f"{'|'.join(PRECISIONS)}[,...]",
    help="Element types of weights and activations.  [default: the artifact's, else fp32]",
)
@click.option(
    "--artifact",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help=(
        "Artifact for the backends that run one; give it again to compare several of the same"
        " weights.  [default: exported once into the cache, then reused]"
    ),
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="For backends that run on either.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads.  [default: one for each physical core]",
)
@click.option(
    "--memory-format",
    type=click.Choice(["auto", "nchw", "channels-last"]),
    default="auto",
    show_default=True,
    help="For PyTorch; auto times both and keeps the faster.",
)
@click.option(
    "--merge-groups",
    "merges",
    type=MergesType(),
    metavar="off|N|auto[,...]",
    help=(
        "Merge the groups of each 3x3 until they are N channels wide, which is the same function;"
        " auto times the widths where the row runs (PyTorch, ort-cpu, openvino). Several are"
        " compared, as in off,32."
    ),
)
@click.option(
    "--cuda-graph/--no-cuda-graph", default=True, help="Replay a CUDA graph.  [default: on]"
)
@click.option(
    "--duration",
    type=SecondsType(0.001),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Timed seconds for each row.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Interleaved visits that the time is spread over.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=11,
    show_default=True,
    help="Fewest timed runs of a row (11: median, 64: p90, 662: p99).",
)
@click.option(
    "--warmup",
    type=SecondsType(0),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Untimed seconds before, for each row.",
)
@click.option(
    "--max-seconds",
    type=SecondsType(0.001),
    metavar="SECONDS",
    help=(
        "Open no further row after half of this time, and begin no further visit after all of it;"
        " what has begun is finished, and what was measured is compared and reported.  [default: no"
        " limit]"
    ),
)
@click.option(
    "--accuracy",
    "accuracy_spec",
    metavar="digits|fashion-mnist|FOLDER",
    help=(
        "Also run labelled test images (a folder in ImageNet's layout) and hold every row to"
        " PyTorch's accuracy."
    ),
)
@click.option(
    "--accuracy-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Take a seeded sample of the labelled images, of all classes alike.  [default: all]",
)
@click.option(
    "--calibration",
    metavar="digits|fashion-mnist|FOLDER|random",
    help=(
        "Images that int8 and fp8 take their ranges from, where no artifact is given.  "
        "[default: what shipped weights were trained on]"
    ),
)
@click.option(
    "--calibration-images", type=click.IntRange(1, 100_000), metavar="N", help="[default: 128]"
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of images and order."
)
@json_option("Write raw samples and everything else as JSON")
@click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Write a report.",
)
@click.version_option(__version__, prog_name="resnext-bench")
@guarded
def main(
    backends: tuple[str, ...],
    batches: tuple[int, ...],
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    precision: tuple[Precision, ...] | None,
    paths: tuple[Path, ...],
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    memory_format: Literal["auto", "nchw", "channels-last"],
    merges: tuple[Merge, ...] | None,
    cuda_graph: bool,
    duration: float,
    rounds: int,
    samples: int,
    warmup: float,
    max_seconds: float | None,
    accuracy_spec: str | None,
    accuracy_images: int | None,
    calibration: str | None,
    calibration_images: int | None,
    seed: int,
    json_path: str | None,
    markdown_path: Path | None,
) -> None:
    """Measure latency, throughput, memory and parity of a ResNeXt across backends.

    Backends take turns in short rounds, so that drift of the machine hits all alike. Each row's
    output, that of the timed runs themselves, is compared with float64 PyTorch.
    """
    deadline = Deadline(max_seconds, (signal.SIGINT, signal.SIGTERM))
    from resnext.errors import UsageError
    from resnext.runtimes.availability import available_runtimes, require
    from resnext.runtimes.registry import RUNTIMES, SessionOptions

    from .cases import chosen_cells, given_variants, made_variants, merge_obstacle
    from .plan import Plan
    from .run import run_benchmark

    if markdown_path is not None and (str(markdown_path) == "-" or str(markdown_path) == json_path):
        raise UsageError("--markdown needs a file of its own")
    for target in (json_path, markdown_path):
        check_writable(target)
    if taken_all := "all" in backends:
        backends = available_runtimes(device)
        if not backends:
            require("torch", device)  # what keeps it keeps all the others
    if (calibration or calibration_images) and (paths or not set(QUANTIZED) & set(precision or ())):
        raise UsageError("--calibration is for int8 and fp8 where no artifact is given; drop it")
    if paths:
        if merges is not None:
            raise UsageError(
                "an artifact keeps its groups; drop --merge-groups, or export it with that option"
            )
        if model is not None or num_classes is not None or input_size is not None:
            raise UsageError(
                "an artifact has its own model; drop --model, --num-classes and --input-size"
            )
        weights, variants = given_variants(paths, spec, precision)
    else:
        weights = chosen_weights(model, spec, num_classes, input_size)
        variants = made_variants(
            precision or ("fp32",), calibration, calibration_images, merges or (None,)
        )
    if taken_all:
        backends = tuple(
            name
            for name in backends
            if any(
                made.precision in RUNTIMES[name].precisions
                and merge_obstacle(name, made.merge) is None
                for made in variants.values()
            )
        )
    cells, left_out = chosen_cells(backends, batches, variants)
    for line in left_out:
        click.echo(f"note: {line}", err=True)
    if accuracy_images is not None and accuracy_spec is None:
        raise UsageError(
            "--accuracy-images says how many of the images of --accuracy: give that too"
        )
    labelled = None
    if accuracy_spec is not None:
        from resnext.verify.labelled import Labelled

        labelled = Labelled(accuracy_spec, weights, accuracy_images)
    plan = Plan(cells, duration, rounds, warmup, samples, seed)
    options = SessionOptions(device, threads, memory_format, cuda_graph)
    console = _console(to_stderr=json_path == "-", least_width=140 if labelled is None else 180)
    with _status() as say:
        run = run_benchmark(
            weights,
            plan,
            options=options,
            variants=variants,
            accuracy=labelled,
            deadline=deadline,
            say=say,
        )
    _show(run, console)
    if json_path is not None:
        write_text(json_path, run.model_dump_json(indent=None) + "\n")
    if markdown_path is not None:
        from .report import markdown

        write_text(str(markdown_path), markdown(run))
    if deadline.interrupted:
        click.echo("interrupted; what was measured before is reported", err=True)
        sys.exit(130)
    if code := exit_code(run):
        bad = [row for row in run.rows if row.status != "valid"]
        first = f"{bad[0].backend} batch {bad[0].batch}: {bad[0].reasons[0]}"
        click.echo(f"error: {len(bad)} of {len(run.rows)} rows are not valid; {first}", err=True)
        sys.exit(code)


def exit_code(run: Run) -> int:
    """0 where every row is valid; 1 where one is invalid; else the code of the first backend that
    failed.
    """
    if any(row.status == "invalid" for row in run.rows):
        return 1
    return next((row.exit_code for row in run.rows if row.status == "failed"), 0)


def _show(run: Run, console: Console) -> None:
    from .report import legend, remarks, rounds_done, table

    console.print(f"[dim]{run.environment.title()}[/dim]")
    for line in run.reused:
        console.print(f"[dim]reused {line}[/dim]")
    console.print(table(run))
    if (done := rounds_done(run)) != str(run.rounds):
        console.print(f"stopped after {done} rounds", style="yellow")
    console.print(f"[dim]{legend(run)}[/dim]")
    for line in remarks(run):
        console.print(line, style="yellow", markup=False)


def _console(*, to_stderr: bool, least_width: int) -> Console:
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False)
    # Never narrower than the table: numbers cut short would be worse than lines that wrap.
    return (
        console
        if console.width >= least_width
        else Console(stderr=to_stderr, highlight=False, width=least_width)
    )


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Say what is going on: a spinner with the time gone on a terminal, a line with the time gone
    elsewhere.
    """
    if not sys.stderr.isatty():
        started = time.monotonic()
        yield lambda line: click.echo(f"{time.monotonic() - started:7.1f} s  {line}", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, refresh_per_second=2
    ) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda line: progress.update(task, description=line)


if __name__ == "__main__":
    main()
