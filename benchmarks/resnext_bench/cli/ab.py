"""The command ``resnext-bench ab``: is B faster or slower than A?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from resnext.cli.app import SETTINGS, as_flags, guarded
from resnext.cli.junit import JUnit, junit_option
from resnext.cli.options import (
    OUTPUT,
    RUN,
    backend_option,
    chosen_weights,
    device_option,
    json_option,
    seed_option,
    weights_options,
)
from resnext.cli.params import NameType, SecondsType
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import GateFailed
from resnext.precision import PRECISIONS, Precision
from resnext.progress import steps
from resnext.runtimes.registry import LOCAL_RUNTIMES
from resnext.storage import check_writable, write_text

from .outputs import check_separate
from .verdicts import exit_on, margin_option, strict_option

if TYPE_CHECKING:
    from resnext_bench.ab.record import Duel

_EPILOG = """\b
Examples:
  resnext-bench ab torch ort-cpu --batch 8                  two backends, seeded ResNeXt-50 32x4d
  resnext-bench ab fp32/ int8/ --backend openvino           two artifacts of the same weights
  resnext-bench ab ort-cpu --python ../new/bin/python       did the upgrade slow it down?
  resnext-bench ab fp32/ fp32/                              the noise floor: never FASTER or SLOWER
  resnext-bench ab fp32/ other/ --processes 5 --rounds 6    interval over fresh processes
Exit code 1: B is SLOWER, or an output is wrong; with --strict also CANNOT TELL.
"""

_measuring = option_of("Measuring")
_device = option_of("Device")


@click.command("ab", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("a")
@click.argument("b", required=False)
@option_of(RUN)(
    "--python",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Python interpreter of the environment that B runs in.  [default: this one]",
)
@option_of(RUN)(
    "--batch",
    type=click.IntRange(min=1, max=65536),
    default=1,
    show_default=True,
    metavar="N",
    help="Batch size.",
)
@backend_option(LOCAL_RUNTIMES, "Runtime for artifacts.  [default: the natural one of each]")
@option_of(RUN)(
    "--precision",
    type=NameType("precision", tuple(PRECISIONS)),
    default="fp32",
    show_default=True,
    metavar="|".join(PRECISIONS),
    help="Element types of whatever is built from the weights.",
)
@weights_options
@_measuring(
    "--rounds",
    type=click.IntRange(min=1, max=1000),
    default=12,
    show_default=True,
    metavar="N",
    help="Undisturbed rounds; a verdict takes at least 8.",
)
@_measuring(
    "--duration",
    type=SecondsType(0.001),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Timed seconds of each arm, over all rounds.",
)
@_measuring(
    "--warmup",
    type=SecondsType(0),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Untimed warm-up seconds of each arm.",
)
@_measuring(
    "--processes",
    type=click.IntRange(min=3, max=100),
    metavar="N",
    help="Repeat in N pairs of fresh processes, and take the interval over them.",
)
@_measuring(
    "--max-seconds",
    type=SecondsType(0.001),
    metavar="SECONDS",
    help="Begin no further round after this time.  [default: no limit]",
)
@seed_option("Seed for the test images and for the order of visits.", "Measuring")
@device_option()
@_device(
    "--threads",
    type=click.IntRange(min=1, max=4096),
    metavar="N",
    help=(
        "CPU threads of each arm.  [default: the least of physical cores, affinity, CPU quota and"
        " OMP_NUM_THREADS]"
    ),
)
@margin_option
@strict_option
@json_option("Write rounds, environments and verdict as JSON")
@option_of(OUTPUT)(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Write the comparison as Markdown.",
)
@guarded
@junit_option("resnext-bench ab")
def ab(
    a: str,
    b: str | None,
    python: Path | None,
    batch: int,
    backend: str | None,
    precision: Precision,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None,
    rounds: int,
    duration: float,
    warmup: float,
    processes: int | None,
    max_seconds: float | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    margin: float,
    strict: bool,
    json_path: str | None,
    markdown_path: Path | None,
    junit: JUnit,
) -> None:
    """Say whether B is faster or slower than A: two backends, two artifacts, or two environments.

    Each runs in its own process; the two take turns in short rounds, one at a time. A round in
    which something else took the processors is measured again.
    """
    check_separate(json_path, markdown=markdown_path)
    for target in (json_path, markdown_path):
        check_writable(target)
    from resnext_bench.ab.arms import Choices
    from resnext_bench.ab.duel import Timing, duel
    from resnext_bench.ab.report import markdown

    from .junit import cases_of_duel

    named = any(value is not None for value in (model, num_classes, input_size, weights_key))
    weights = chosen_weights(model, spec, num_classes, input_size, weights_key) if named else spec
    with steps("starting") as say:
        outcome = duel(
            a,
            b,
            choices=Choices(batch, backend, precision, device),
            weights=weights,
            python=python,
            timing=Timing(rounds, duration, warmup, processes, max_seconds),
            threads=threads,
            margin=margin,
            seed=seed,
            progress=say,
        )
    if json_path is not None:
        write_text(json_path, outcome.model_dump_json() + "\n")
    document = markdown(outcome)
    if markdown_path is not None:
        write_text(str(markdown_path), document)
    junit.add(cases_of_duel(outcome, strict=strict), document)
    _show(outcome, to_stderr=json_path == "-")
    for arm in outcome.arms:
        if not arm.parity.passed:
            raise GateFailed(f"the output of {arm.name} is wrong: {arm.parity.failures[0]}")
    exit_on((outcome.change,), strict=strict)


def _show(outcome: Duel, *, to_stderr: bool) -> None:
    from resnext_bench.ab.report import HEADINGS, LEFT, cells, remarks, title
    from resnext_bench.report.grid import draw, say, screen

    console = screen(to_stderr=to_stderr)
    *lines, verdict = remarks(outcome)
    say(as_flags(f"{outcome.change.verdict}: {verdict}"), console)
    say(title(outcome), console)
    draw(
        HEADINGS,
        cells(outcome),
        console,
        left=LEFT,
        folded="runs",
        dropped_first=("rounds",),
    )
    for line in lines:
        say(as_flags(line), console)
