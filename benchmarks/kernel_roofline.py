"""Predicts on paper what the network on the Triton kernels takes on an H100 and an H200.

    python benchmarks/kernel_roofline.py [--batch 1,8,64,256] [--precision fp16] [--show sums,goals]

Nothing is run, and no speed is claimed. Each launch takes the largest of its bounds (memory, L2
cache, L1 cache and shared memory, tensor cores, instructions, latency) and the time of a launch.
The range is of three sets of assumptions: the best that the machine allows, what is expected, and
what would still be no surprise.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import click

from resnext.network.config import VARIANTS, variant
from roofline.accounts import saved_bytes
from roofline.assembled import Compile
from roofline.machines import ASSUMED, MACHINES
from roofline.sums import Sum, predicted
from roofline.tables import SHOWN, shown

#: A table of a Markdown file, between two comments.
BLOCK = re.compile(
    r"(?P<begin><!-- kernel_roofline\.py ?(?P<options>[^>]*?) ?-->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def updated(text: str) -> str:
    """A Markdown text with its tables made anew.

    A table stands between ``<!-- kernel_roofline.py OPTIONS -->`` and ``<!-- end -->``.
    """

    def made(found: re.Match[str]) -> str:
        context = main.make_context("kernel_roofline.py", shlex.split(found["options"]))
        chosen = context.params
        config = variant(chosen["name"])
        passes = predicted(
            config, chosen["machines"], chosen["precisions"], chosen["batches"], chosen["tiles"]
        )
        tables = shown(list(passes), chosen["show"], saved_bytes(config, 64))
        return f"{found['begin']}\n{tables}\n\n{found['end']}"

    return BLOCK.sub(made, text)


def as_json(sums: Iterable[Sum]) -> dict[str, object]:
    """All of it, for programs."""
    return {
        "measured": False,
        "assumed": {name: asdict(each) for name, each in ASSUMED.items()},
        "passes": [
            {
                "machine": each.machine,
                "precision": each.precision,
                "batch": each.batch,
                "floor_us": each.floor_us,
                "own_floor_us": each.own_floor_us,
                "us": {key: each.us(key) for key in ASSUMED},
                "launches": [
                    {
                        "name": one.launch.name,
                        "kernel": one.launch.kernel,
                        "tile": one.launch.tile,
                        "programs": one.launch.programs,
                        "waves": one.waves,
                        "bytes": one.launch.bytes,
                        "memory_bytes": one.memory_bytes,
                        "macs": one.launch.macs,
                        "useful_macs": one.launch.useful,
                        "bounds_us": dict(one.bounds),
                        "us": one.us,
                        "ruled_by": one.ruled_by,
                    }
                    for one in each.passes["expected"]
                ],
            }
            for each in sums
        ],
    }


def _listed(allowed: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    names = tuple(allowed)

    def split(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
        del ctx, param
        chosen = value.split(",")
        for each in chosen:
            if each not in names:
                raise click.BadParameter(f"{each!r}: one of {', '.join(names)}")
        return chosen

    return split


def _counts(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    del ctx, param
    try:
        counts = [int(each) for each in value.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise click.BadParameter(f"{value!r}: numbers of images, such as 1,8,64")
    return counts


@click.command(help=__doc__)
@click.option("--variant", "name", type=click.Choice(sorted(VARIANTS)), default="resnext50_32x4d")
@click.option("--machine", "machines", callback=_listed(MACHINES), default="h100,h200")
@click.option("--precision", "precisions", callback=_listed(("fp16", "bf16")), default="fp16")
@click.option("--batch", "batches", callback=_counts, default="1,8,64,256", show_default=True)
@click.option(
    "--tiles",
    type=click.Choice(["first", "paper"]),
    default="first",
    help="The first of the choices, untried, or the best of them on paper.",
)
@click.option(
    "--assembler",
    is_flag=True,
    help="Compile the kernels: their registers, shared memory and instructions, not estimates.",
)
@click.option(
    "--show",
    callback=_listed(SHOWN),
    default="sums,goals,saved",
    show_default=True,
    help=f"Which of {', '.join(SHOWN)}.",
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--update",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Write the tables of a Markdown file anew, each by the options in the comment before it.",
)
def main(
    name: str,
    machines: list[str],
    precisions: list[str],
    batches: list[int],
    tiles: str,
    assembler: bool,
    show: list[str],
    file: Path | None,
    update: Path | None,
) -> None:
    """Print tables, and write JSON."""
    if update is not None:
        update.write_text(updated(update.read_text()))
        return
    compiled: Compile | None = import_module("kernel_sass").compiled if assembler else None
    sums = list(predicted(variant(name), machines, precisions, batches, tiles, compiled))
    if file is not None:
        file.write_text(json.dumps(as_json(sums), indent=1) + "\n")
    click.echo(shown(sums, show, saved_bytes(variant(name), 64)))


if __name__ == "__main__":
    main()
