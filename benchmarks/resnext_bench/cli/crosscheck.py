"""The command ``resnext-bench crosscheck``: our times against the peers' own tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.cli.app import SETTINGS, guarded
from resnext.cli.options import RUN, json_option, trust_options
from resnext.cli.params import NameType
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import GateFailed
from resnext.progress import steps
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext_bench.crosscheck.comparison import Comparison, Crosscheck
    from resnext_bench.crosscheck.setup import Hint

#: Names of the peers; a test compares them with the registry.
_TOOLS = ("benchmark_app", "onnxruntime", "onnxruntime_perf_test", "trtexec")

_EPILOG = """\b
Examples:
  resnext-bench crosscheck out/                          every peer that runs it here
  resnext-bench crosscheck out/ --batch 8 --threads 2    the same threads for both sides
  resnext-bench crosscheck out/ --tool benchmark_app --hint both
  resnext-bench crosscheck engine/ --tool trtexec        needs trtexec on PATH
Exit code 0: no tool differs. 1: a tool differs by more than 3 %. 3: a tool is missing,
or ran with other settings than ours. 4: a tool failed.
"""

_what = option_of(RUN)
_measuring = option_of("Measuring")


@click.command("crosscheck", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("artifact", type=click.Path(path_type=Path))
@_what(
    "--tool",
    type=NameType("tool", _TOOLS),
    metavar="NAME",
    help=f"Peer to compare with: {', '.join(_TOOLS)}.  [default: every one that can run the"
    " artifact and is here]",
)
@_what(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Images in one run.",
)
@_what(
    "--hint",
    type=click.Choice(["latency", "throughput", "both"]),
    default="latency",
    show_default=True,
    help="One request at a time, or as many in flight as threads; onnxruntime and trtexec are"
    " compared at latency alone.",
)
@_what(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads of each side.  [default: the thread budget]",
)
@_measuring(
    "--rounds",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Undisturbed rounds to reach, six at least for a verdict; up to twice as many are tried.",
)
@_measuring(
    "--duration",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    metavar="SECONDS",
    help="Measured seconds of each visit.",
)
@json_option("Write all rounds and what the tools reported as JSON")
@guarded
@trust_options
def crosscheck(
    artifact: Path,
    tool: str | None,
    batch: int,
    hint: str,
    threads: int | None,
    rounds: int,
    duration: int,
    json_path: str | None,
) -> None:
    """Compare our times with those of the peers' own tools, on the same bytes.

    Both sides take turns, with the same threads, streams, shape and precision. Rounds that other
    processes disturbed do not count.
    """
    check_writable(json_path)
    from resnext.artifact.files import read_artifact
    from resnext_bench.crosscheck.run import crosscheck as run

    both: tuple[Hint, ...] = ("latency", "throughput")
    with steps("starting") as say:
        result, errors = run(
            read_artifact(artifact),
            tool=tool,
            batch=batch,
            hints=both if hint == "both" else (hint,),  # type: ignore[arg-type]  # click's choice
            threads=threads,
            rounds=rounds,
            duration_s=duration,
            say=say,
        )
    if json_path is not None:
        write_text(json_path, result.model_dump_json() + "\n")
    _show(result, to_stderr=json_path == "-")
    if errors:
        raise errors[0]
    if differing := [each for each in result.comparisons if each.verdict == "DIFFER"]:
        names = ", ".join(f"{each.tool} ({each.hint})" for each in differing)
        raise GateFailed(f"our times and those of {names} differ by more than 3 %")


def _show(result: Crosscheck, *, to_stderr: bool) -> None:
    from resnext_bench.crosscheck.comparison import average
    from resnext_bench.crosscheck.tools import TOOLS
    from resnext_bench.report.grid import draw, say, screen

    console = screen(to_stderr=to_stderr)
    say(result.environment.title(), console)
    rows = []
    for each in result.comparisons:
        ours, theirs = average(each)
        low_high = "-" if each.ratio is None else f"{each.ratio[1]:.3f} to {each.ratio[2]:.3f}"
        rows.append(
            (
                each.tool,
                each.hint,
                _time(each, ours),
                _time(each, theirs),
                "-" if each.ratio is None else f"{each.ratio[0]:.3f}",
                low_high,
                f"{len(each.quiet)} of {len(each.rounds)}",
                each.verdict,
            )
        )
    draw(
        ("tool", "hint", "ours", "theirs", "ours/theirs", "95 %", "rounds", "verdict"),
        rows,
        console,
        left=("tool", "hint", "verdict"),
        folded="tool",
        dropped_first=("rounds", "ours", "theirs"),
    )
    for each in result.comparisons:
        say(
            f"{each.tool}, {each.hint}: batch {each.batch}, threads {each.threads}, streams"
            f" {each.streams}; {TOOLS[each.tool].includes}",
            console,
        )
        reasons = dict.fromkeys(
            reason.partition(" (")[0] for every in each.rounds for reason in every.disturbances
        )
        if reasons:
            count = len(each.rounds) - len(each.quiet)
            say(
                f"{each.tool}, {each.hint}: {count} rounds do not count: {', '.join(reasons)}",
                console,
            )


def _time(comparison: Comparison, run_ns: float) -> str:
    if comparison.hint == "throughput":
        return f"{comparison.batch / run_ns * 1e9:,.1f} images/s"
    return f"{run_ns / 1e6:.4g} ms"
