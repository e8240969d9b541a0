"""The command ``resnext-bench limits``: what this machine, and a network on it, can reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from resnext.cli.app import SETTINGS, echo, guarded
from resnext.cli.options import json_option
from resnext.cli.params import CountsType, NameType
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import MissingRequirement
from resnext.network.config import VARIANTS
from resnext.precision import PRECISIONS, Precision
from resnext.progress import steps
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext_bench.limits.ceilings import Device, MachineCeilings
    from resnext_bench.limits.floors import Floors

_EPILOG = """\b
Examples:
  resnext-bench limits                                      ceilings; floors of ResNeXt-50 32x4d
  resnext-bench limits --model resnext101_32x8d --batch 64  floors of another network
  resnext-bench limits --precision int8 --threads 1         of one thread
  resnext-bench limits --again                              measure once more, on a quiet machine
  resnext-bench limits --json - | jq '.floors[].blocks_s'
Ceilings are measured once for each device and number of threads, and kept in the cache.
The floors are the network's least times: of its operations alone; with the input and
output of every layer in memory; with those of every residual block.
"""

_what = option_of("Network")
_device = option_of("Device")


@click.command("limits", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@_what(
    "--model",
    type=NameType("model", tuple(VARIANTS)),
    default="resnext50_32x4d",
    show_default=True,
    metavar="NAME",
    help="Variant of the network; resnext-export --list-models shows all.",
)
@_what(
    "--batch",
    type=CountsType(),
    default="1,8",
    show_default=True,
    help="Batch sizes, separated by commas.",
)
@_what(
    "--precision",
    type=NameType("precision", tuple(PRECISIONS), many=True),
    metavar=f"{'|'.join(PRECISIONS)}[,...]",
    help="Precisions of the floors.  [default: those that the device computes in]",
)
@_device(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device; auto is the first GPU if PyTorch can use it.",
)
@_device(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads.  [default: the thread budget: physical cores, affinity, quota]",
)
@_device("--again", is_flag=True, help="Measure the ceilings even if they are known.")
@json_option("Write ceilings and floors as JSON")
@guarded
def limits(
    model: str,
    batch: tuple[int, ...],
    precision: tuple[Precision, ...] | None,
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    again: bool,
    json_path: str | None,
) -> None:
    """Show what this machine can do at most, and the least times of a network on it."""
    check_writable(json_path)
    from resnext_bench.limits.floors import floors

    known = _ceilings(device, threads, again=again)
    measured = {product.precision for product in known.products}
    precisions = precision or tuple(name for name in PRECISIONS if name in measured)
    found = [
        (name, size, floors(VARIANTS[model], name, size, known.ceiling(name)))
        for name in precisions
        for size in batch
    ]
    if json_path is not None:
        rows = [
            {"model": model, "precision": name, "batch": size, **asdict(floor)}
            | {"limited_by": floor.limited_by, "ceiling": known.fastest(name).name}
            for name, size, floor in found
        ]
        facts = {"ceilings": known.model_dump(mode="json"), "floors": rows}
        write_text(json_path, json.dumps(facts, indent=2) + "\n")
    if json_path != "-":
        _show(model, known, found)


def _ceilings(
    device: Literal["auto", "cpu", "cuda"], threads: int | None, *, again: bool
) -> MachineCeilings:
    """The stored ceilings; measured, if there are none or ``again``."""
    from resnext.machine.environment import record_environment
    from resnext.machine.nvml import open_nvml
    from resnext.machine.threads import thread_budget
    from resnext.runtimes.availability import require
    from resnext_bench.limits.ceilings import measured_ceilings, stored_ceilings

    def note(line: str) -> None:
        echo(f"note: {line}", err=True)

    kind: Device = "cpu"
    if device != "cpu":
        try:
            require("torch", "cuda")
            kind = "cuda"
        except MissingRequirement:
            if device == "cuda":
                raise
    count = None if kind == "cuda" else threads or thread_budget().count
    with open_nvml() as nvml:
        environment = record_environment(nvml)
    known = None if again else stored_ceilings(environment, kind, count, note)
    if known is None:
        with steps("measuring this machine's ceilings"):
            known = measured_ceilings(environment, kind, count, note)
    return known


def _show(model: str, known: MachineCeilings, found: Sequence[tuple[str, int, Floors]]) -> None:
    from resnext_bench.report.grid import draw, say, screen

    console = screen()
    count = known.threads
    threads = "" if count is None else f", {count} thread{'s' * (count > 1)}"
    say(f"{known.machine}{threads}, measured {known.created}", console)
    for line in known.disturbed:
        say(f"disturbed meanwhile by {line}; measure --again on a quiet machine", console)
    for line in known.notes:
        say(line, console)
    draw(
        ("precision", "computed by", "Top/s"),
        [
            (product.precision, product.instructions, f"{product.operations_per_s / 1e12:.3g}")
            for product in known.products
        ],
        console,
        left=("precision", "computed by"),
        folded="computed by",
    )
    what = "smallest call" if known.threads is not None else "kernel in a CUDA graph"
    say(
        f"copy {known.copy_bytes_per_s / 1e9:.3g} GB/s read and written; {what}"
        f" {known.launch_ns / 1e3:.2g} us",
        console,
    )
    say("", console)
    say(f"floors of {model}, ms (images/s)", console)
    rows = []
    for name, size, floor in found:
        times = (floor.compute_s, floor.layers_s, floor.blocks_s)
        cells = [f"{time * 1e3:.3g} ({size / time:,.0f})" for time in times]
        rows.append((name, str(size), *cells, floor.limited_by))
    draw(
        ("precision", "batch", "operations", "every layer", "fused blocks", "limited by"),
        rows,
        console,
        left=("precision", "limited by"),
        folded="precision",
        dropped_first=("limited by", "every layer"),
    )
