"""The command ``resnext-bench``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from resnext.cli.app import SETTINGS, as_flags, echo, guarded
from resnext.cli.junit import JUnit, junit_option
from resnext.cli.options import (
    OUTPUT,
    RUN,
    artifact_option,
    backend_option,
    chosen_weights,
    device_option,
    json_option,
    preprocessing_options,
    requested_preprocessing,
    seed_option,
    size_of,
    trust_options,
    weights_options,
)
from resnext.cli.params import CountsType, MinutesType, NameType, PercentType, SecondsType
from resnext.cli.sections import Remembering, SectionedGroup, option_of, runs_subcommand, typed
from resnext.errors import UsageError
from resnext.precision import PRECISIONS, Precision
from resnext.progress import steps
from resnext.runtimes.registry import LOCAL_RUNTIMES, RUNTIMES
from resnext.storage import check_writable, write_text
from resnext.version import __version__
from resnext_bench.deadline import Deadline

from .outputs import check_separate, html_option
from .serving import SERVING, load_options, load_scenarios

if TYPE_CHECKING:
    from resnext.weights.spec import Weights
    from resnext_bench.cases import Merge
    from resnext_bench.result import Run
    from resnext_bench.scenarios.scenario import Scenario

_EPILOG = """\b
Examples:
  resnext-bench --backend torch,ort --batch 1,8            ResNeXt-50 32x4d, seeded weights
  resnext-bench --backend all --weights digits --batch 64  everything that this machine has
  resnext-bench --backend ort-cpu --artifact out/ --samples 662         enough for a p99
  resnext-bench --backend torch,ort --weights digits --accuracy digits  accuracy beside latency
  resnext-bench --backend ort,openvino --artifact model.onnx            any ONNX classifier
  resnext-bench --backend trt --batch 64 --precision fp16  builds the engine once, then reuses it
  resnext-bench --backend ort,openvino --batch 8 --precision fp32,int8 --calibration photos/
  resnext-bench --backend ort --batch 8 --artifact int8/ --artifact int8-merged/
  resnext-bench --backend torch,torch-folded,ort-cpu --batch 8 --merge-groups off,32
  resnext-bench --backend all --batch 1,8 --max-seconds 300             a report in five minutes
  resnext-bench --backend all --batch 1,8 --html report.html            tables and charts, one file
  resnext-bench --backend ort-cpu --load poisson --slo 20ms             the rate it can serve
  resnext-bench --backend ort-cpu,v2:http://127.0.0.1:8000/digits --artifact out/ --streams 2
  resnext-bench --backend ort --batch 8 --json - | jq '.rows[].timings[].stats.median_ns'
Exit code 0: every row was measured and is right. 1: an output was wrong, a row is
invalid, or time ran out. 3, 4: a backend failed; its row says why. 130: interrupted;
once measuring has begun, what was measured is still compared, shown and written.
"""


#: Subcommands: module and function, and the line that ``--help`` shows.
_COMMANDS: dict[str, tuple[str, str]] = {
    "ab": ("resnext_bench.cli.ab:ab", "Say whether B is faster or slower than A."),
    "compare": ("resnext_bench.cli.compare:compare", "Compare two stored runs, row by row."),
    "history": ("resnext_bench.cli.history:history", "Show kept runs over time, with steps."),
    "page": ("resnext_bench.cli.page:page", "Write a stored run as a page of HTML."),
    "lens": ("resnext_bench.cli.lens:lens", "Show where the time of one run goes, by layer."),
    "limits": ("resnext_bench.cli.limits:limits", "Show what this machine can do at most."),
    "crosscheck": (
        "resnext_bench.cli.crosscheck:crosscheck",
        "Compare our times with those of the peers' own tools.",
    ),
    "plan": ("resnext_bench.cli.plan:plan", "Write a benchmark as groups for many machines."),
    "run-cells": (
        "resnext_bench.cli.run_cells:run_cells",
        "Measure groups of a plan, here or on a Ray cluster.",
    ),
    "merge": ("resnext_bench.cli.merge:merge", "Show the runs of a plan, by kind of machine."),
}

#: Largest accepted group width, channels.
_WIDEST = 4096


class MergesType(CountsType):
    """Minimum group widths for --merge-groups."""

    name = "off|N|auto[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and split."""
        if isinstance(value, tuple):
            return value
        widths: list[Merge] = []
        for part in (part.strip() for part in str(value).split(",")):
            if part in ("off", "auto"):
                widths.append(None if part == "off" else "auto")
            elif part.isascii() and part.isdigit() and 2 <= int(part) <= _WIDEST:
                widths.append(int(part))
            else:
                self.fail(
                    f"{part!r} must be off, auto, or a number of channels from 2 to {_WIDEST}",
                    param,
                    ctx,
                )
        return tuple(dict.fromkeys(widths))


class _Bench(Remembering, SectionedGroup):
    """Stored runs say how the command was typed."""


_what = option_of(RUN)
_measuring = option_of("Measuring")
_device = option_of("Device")
_right = option_of("Accuracy and calibration")
_scenario = option_of(SERVING)


@click.group(
    cls=_Bench,
    lazy=_COMMANDS,
    invoke_without_command=True,
    context_settings=SETTINGS,
    epilog=_EPILOG,
)
@backend_option(
    ("all", *RUNTIMES),
    f"Runtimes to measure: {', '.join(LOCAL_RUNTIMES)}, all that this machine has, or a model on a"
    " server (Triton, KServe, MLServer): v2:http://HOST:PORT/MODEL, also https and grpc. Speedups"
    " are relative to the first.",
    many=True,
)
@_what(
    "--batch",
    type=CountsType(),
    default="1",
    show_default=True,
    help="Batch sizes, separated by commas.",
)
@artifact_option(
    "Artifact to run, or an ONNX file from elsewhere; repeat it to compare several of the same"
    " weights.  [default: exported once into the cache, then reused]",
    multiple=True,
)
@_what(
    "--precision",
    type=NameType("precision", tuple(PRECISIONS), many=True),
    metavar=f"{'|'.join(PRECISIONS)}[,...]",
    help="Element types of weights and activations.  [default: the artifact's, else fp32]",
)
@_what(
    "--merge-groups",
    type=MergesType(),
    metavar="off|N|auto[,...]",
    help=(
        "Merge convolution groups until each has N input channels, which is exact; auto times the"
        " widths on the runtime itself (PyTorch, ort-cpu, openvino). Several are compared: off,32."
    ),
)
@weights_options
@preprocessing_options
@_measuring(
    "--duration",
    type=SecondsType(0.001),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Minimum timed seconds per row.",
)
@_measuring(
    "--rounds",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help=(
        "Minimum number of undisturbed, interleaved visits to each row; the timed seconds are"
        " spread over them."
    ),
)
@_measuring(
    "--precision-target",
    type=PercentType(),
    default="1%",
    show_default=True,
    metavar="PERCENT",
    help=(
        "Add rounds, up to three times --rounds, until every median is known to this: half the"
        " width of its 95 % interval. Above this noise floor no speedup is shown."
    ),
)
@_measuring(
    "--samples",
    type=click.IntRange(min=1),
    default=11,
    show_default=True,
    metavar="N",
    help="Minimum number of timed runs per row (11: median, 64: p90, 662: p99).",
)
@_measuring(
    "--warmup",
    type=SecondsType(0),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Untimed warm-up seconds per row.",
)
@_measuring(
    "--cache",
    type=click.Choice(["hot", "cold"]),
    default="hot",
    show_default=True,
    help="Run back to back, or empty the caches before each timed run (a GPU's L2, a processor's"
    " last level); the duration then includes that.",
)
@_measuring(
    "--max-seconds",
    type=SecondsType(0.001),
    metavar="SECONDS",
    help=(
        "Time limit: open no further row after half of it, and start no further visit after all of"
        " it. What has started is finished, and what was measured is reported.  [default: no limit]"
    ),
)
@seed_option("Seed for the test images and for the order of visits.", "Measuring")
@device_option()
@_device(
    "--threads",
    type=CountsType(),
    help=(
        "CPU threads of every runtime; several are compared.  [default: the least of physical"
        " cores, affinity, CPU quota and OMP_NUM_THREADS]"
    ),
)
@_device(
    "--streams",
    type=CountsType(),
    default="1",
    show_default=True,
    help="Requests in flight at once, which share the threads; several are compared.",
)
@_device(
    "--memory-format",
    type=click.Choice(["auto", "nchw", "channels-last"]),
    default="auto",
    show_default=True,
    help="PyTorch's memory layout; auto times both and keeps the faster.",
)
@_device(
    "--cuda-graph/--no-cuda-graph",
    default=True,
    help="Replay a CUDA graph on CUDA devices.  [default: on]",
)
@_right(
    "--accuracy",
    metavar="digits|fashion-mnist|FOLDER",
    help=(
        "Also run labeled test images (a folder in ImageNet's layout, or tar or Parquet files),"
        " and require every row to be as accurate as PyTorch."
    ),
)
@_right(
    "--accuracy-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of labeled images: a seeded sample, balanced over classes.  [default: all]",
)
@_right(
    "--calibration",
    metavar="digits|fashion-mnist|FOLDER|random",
    help=(
        "Calibration images for int8 and fp8, if there is no --artifact.  [default: what shipped"
        " weights were trained on]"
    ),
)
@_right(
    "--calibration-images",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Number of calibration images.  [default: 128]",
)
@load_options
@_scenario(
    "--cold-start",
    is_flag=True,
    help="After the timed rounds, start every row in fresh processes, without and with caches: time"
    " to import, open and answer, peak memory, and after how many images its build has paid.",
)
@_scenario(
    "--soak",
    type=MinutesType(),
    metavar="MINUTES",
    help="After the timed rounds, run every row for as long at mixed batch sizes: does memory or"
    " latency grow, does an output change? Also 90s, 2h.",
)
@json_option("Write the run with its raw samples as JSON")
@option_of(OUTPUT)(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Write the report as Markdown.",
)
@html_option("Write the report as a page: one file of HTML, charts included, no network needed.")
@option_of(OUTPUT)(
    "--explain",
    is_flag=True,
    help="Say below the table what its columns, intervals and verdicts mean; without --backend, say"
    " it of all that there are, and measure nothing.",
)
@click.version_option(__version__, prog_name="resnext-bench")
@click.pass_context
@guarded
@junit_option("resnext-bench")
@trust_options
def main(
    ctx: click.Context,
    /,
    backend: tuple[str, ...] | None,
    batch: tuple[int, ...],
    artifact: tuple[Path, ...],
    precision: tuple[Precision, ...] | None,
    merge_groups: tuple[Merge, ...] | None,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None,
    duration: float,
    rounds: int,
    precision_target: float,
    cache: Literal["hot", "cold"],
    samples: int,
    warmup: float,
    max_seconds: float | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    threads: tuple[int, ...] | None,
    streams: tuple[int, ...],
    memory_format: Literal["auto", "nchw", "channels-last"],
    cuda_graph: bool,
    accuracy: str | None,
    accuracy_images: int | None,
    calibration: str | None,
    calibration_images: int | None,
    cold_start: bool,
    load: str | None,
    slo: float | None,
    loadgen: str | None,
    loadgen_logs: Path | None,
    soak: float | None,
    json_path: str | None,
    markdown_path: Path | None,
    html_path: Path | None,
    explain: bool,
    junit: JUnit,
    **pixels: Any,
) -> None:
    """Measure latency, throughput, memory and parity of a ResNeXt across backends.

    Runtimes take turns in short rounds, so that drift of the machine affects all alike. The output
    of the timed runs is compared with float64 PyTorch.
    """
    if runs_subcommand(ctx):
        return
    if backend is None and typed(ctx) == ("--explain",):
        _explain_everything()
        return
    refuse_contradictions(backend, artifact, model, num_classes, weights_key)
    assert backend is not None
    deadline = Deadline(max_seconds, (signal.SIGINT, signal.SIGTERM))
    check_separate(json_path, markdown=markdown_path, html=html_path)
    for target in (json_path, markdown_path, html_path):
        check_writable(target)
    scenarios: list[Scenario] = load_scenarios(
        load=load,
        slo=slo,
        loadgen=loadgen,
        loadgen_logs=loadgen_logs,
        duration=duration,
        streams=streams,
        cache=cache,
    )
    from resnext.verify.assumed import assumed
    from resnext_bench.api import benchmark
    from resnext_bench.report.grid import screen
    from resnext_bench.report.terminal import show

    from .junit import cases_of_run

    command = ("resnext-bench", *typed(ctx))

    def save(run: Run) -> None:
        if json_path is not None:
            text = run.model_copy(update={"command": command}).model_dump_json(indent=None) + "\n"
            write_text(json_path, text, final=run.complete)

    requested, input_size = requested_preprocessing(pixels, input_size, of_artifact=bool(artifact))
    weights: Weights | str | None = spec
    if not artifact:
        weights = chosen_weights(model, spec, num_classes, input_size, weights_key, requested)
        unsure = assumed(weights.preprocessing, weights.preprocessing_source)
        if unsure is not None and (accuracy or calibration):
            echo(f"warning: {as_flags(str(unsure))}", err=True)
    if cold_start:
        from resnext_bench.scenarios.cold_start import ColdStart

        scenarios.append(ColdStart())
    if soak is not None:
        from resnext_bench.scenarios.soak import Soak

        scenarios.append(Soak(soak))
    with steps("starting") as say:
        run = benchmark(
            artifact or backend,
            runtimes=backend if artifact else None,
            batch=batch,
            weights=weights,
            input_size=size_of(input_size) if artifact and input_size is not None else None,
            precision=precision,
            merge_groups=merge_groups or (None,),
            calibration=calibration,
            calibration_images=calibration_images,
            device=device,
            threads=threads,
            streams=streams,
            memory_format=memory_format,
            cuda_graph=cuda_graph,
            duration=duration,
            rounds=rounds,
            warmup=warmup,
            samples=samples,
            precision_target=precision_target,
            cache=cache,
            seed=seed,
            accuracy=accuracy,
            accuracy_images=accuracy_images,
            scenarios=scenarios,
            max_seconds=deadline,
            progress=say,
            save=save,
            note=lambda line: echo(f"note: {line}", err=True),
        )
    run = run.model_copy(update={"command": command})
    # Files first: the terminal may be gone, and what took minutes to measure is not to be lost.
    save(run)
    if markdown_path is not None:
        write_text(str(markdown_path), run.markdown())
    junit.add(cases_of_run(run), run.table())
    if html_path is not None:
        write_text(str(html_path), run.html())
    show(run, screen(to_stderr=json_path == "-"), explain=explain, spell=as_flags)
    if deadline.interrupted:
        click.echo("interrupted; what was measured before is reported", err=True)
        sys.exit(130)
    if code := exit_code(run):
        from resnext_bench.report import remarks

        bad = [row for row in run.rows if row.status != "valid"]
        # On a terminal it stands in the first line, and under the table.
        first = "" if sys.stdout.isatty() else f"; {as_flags(remarks(run)[0])}"
        echo(f"error: {len(bad)} of {len(run.rows)} rows are not valid{first}", err=True)
        sys.exit(code)


def refuse_contradictions(
    backend: tuple[str, ...] | None,
    artifact: tuple[Path, ...],
    model: str | None = None,
    num_classes: int | None = None,
    weights_key: str | None = None,
    **_: Any,
) -> None:
    """Refuse options that no measurement can follow.

    Raises:
        click.UsageError: no backend.
        UsageError: an artifact, and the model of other weights.
    """
    if backend is None:
        raise click.UsageError("--backend is needed")
    if artifact and any(x is not None for x in (model, num_classes, weights_key)):
        raise UsageError(
            "an artifact has its own model", hint="drop `model`, `num_classes` and `weights_key`"
        )


def exit_code(run: Run) -> int:
    """0 if every row is valid, 1 if one is invalid, else the code of the first that failed."""
    if any(row.status == "invalid" for row in run.rows):
        return 1
    return next((row.exit_code for row in run.rows if row.status == "failed"), 0)


def _explain_everything() -> None:
    from resnext_bench.report.explanation import explanation
    from resnext_bench.report.grid import screen
    from resnext_bench.report.terminal import show_lines

    show_lines(explanation(), screen(), spell=as_flags)


if __name__ == "__main__":
    main()
