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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

import click

from resnext.network.config import VARIANTS, ResNeXtConfig, variant
from resnext_bench.limits.floors import Ceiling, floors
from roofline.accounts import differences, saved_bytes
from roofline.assembled import Compile, assembled
from roofline.bounds import MISSES, Prediction, predict
from roofline.choice import OnPaper
from roofline.launches import Launch, launches
from roofline.machines import ASSUMED, MACHINES, Machine

#: Tables that can be shown.
SHOWN = ("sums", "goals", "saved", "launches", "machines", "assumed")
#: A table of a Markdown file, between two comments.
BLOCK = re.compile(
    r"(?P<begin><!-- kernel_roofline\.py ?(?P<options>[^>]*?) ?-->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)
#: What is asked of the kernels: share of the layer-wise floor at batch 64, and times the launch
#: floor at batch 1.
SHARE, TIMES = 0.70, 1.3
#: The launch floor that the goal was set with: 56 kernels of 2 us.
LAUNCHES, LAUNCH_US = 56, 2.0
#: Microseconds that torch.compile took in a CUDA graph (2026-11-27-h200-resnext50-fp16), by
#: machine, precision and batch; the kernels have to be so many times as fast.
COMPILED_US: Mapping[tuple[str, str, int], float] = MappingProxyType({("h200", "fp16", 64): 3253.6})
FASTER = 2.0


@dataclass(frozen=True)
class Sum:
    """One pass of the network.

    Attributes:
        machine: key of `MACHINES`.
        precision: ``fp16`` or ``bf16``.
        batch: images.
        passes: predictions of every launch, by key of `ASSUMED`.
        floor_us: layer-wise floor from the data sheet's ceilings, microseconds.
        own_floor_us: the same from the ceilings that were measured.
    """

    machine: str
    precision: str
    batch: int
    passes: Mapping[str, Sequence[Prediction]]
    floor_us: float
    own_floor_us: float

    def us(self, assumed: str = "expected") -> float:
        """Microseconds of the pass."""
        return sum(each.us for each in self.passes[assumed])


def predicted(
    config: ResNeXtConfig,
    machines: Iterable[str],
    precisions: Iterable[str],
    batches: Sequence[int],
    tiles: str = "first",
    compiled: Compile | None = None,
) -> Iterator[Sum]:
    """Sums for every machine, precision and batch.

    Args:
        config: the network.
        machines: keys of `MACHINES`.
        precisions: ``fp16``, ``bf16``.
        batches: images.
        tiles: ``first`` of the choices, or the best on ``paper``.
        compiled: compiles a kernel without a GPU; None estimates what it uses.

    Raises:
        ValueError: the launches do not move the bytes of the network's layers.
    """
    for name in machines:
        machine = MACHINES[name]
        if tiles == "paper":
            choose = OnPaper(machine, ASSUMED["expected"])
            counted = {batch: launches(config, batch, choose) for batch in batches}
        else:
            counted = {batch: untried(config, batch) for batch in batches}
        for batch, each in counted.items():
            if wrong := differences(each, config, batch):
                raise ValueError(f"batch {batch}: bytes counted and expected differ: {wrong}")
        for precision in precisions:
            own = Ceiling(machine.products_s[precision], machine.copy_bytes_s)
            for batch, estimated in counted.items():
                each = assembled(estimated, compiled, precision) if compiled else estimated
                yield Sum(
                    name,
                    precision,
                    batch,
                    {
                        key: predict(each, machine, assumed, precision)
                        for key, assumed in ASSUMED.items()
                    },
                    1e6 * floors(config, precision, batch, machine.sheet).layers_s,
                    1e6 * floors(config, precision, batch, own).layers_s,
                )


@cache
def untried(config: ResNeXtConfig, batch: int) -> list[Launch]:
    """Launches with the first tiles."""
    return launches(config, batch)


def sums_table(sums: Iterable[Sum]) -> str:
    """A row for each pass."""
    lines = [
        "| machine | precision | batch | predicted us | best to worst | images/s | best to worst"
        " | of floor | of own floor | through memory MB | ruled by |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for each in sums:
        best, expected, worst = (each.us(key) for key in ("best", "expected", "worst"))
        rules = Counter[str]()
        for one in each.passes["expected"]:
            rules[one.ruled_by] += round(one.us * 1000)
        shares = ", ".join(
            f"{name} {size / rules.total():.0%}" for name, size in rules.most_common(3)
        )
        megabytes = sum(one.memory_bytes for one in each.passes["expected"]) / 1e6
        lines.append(
            f"| {each.machine.upper()} | {each.precision} | {each.batch} | {expected:,.0f}"
            f" | {best:,.0f} to {worst:,.0f} | {each.batch / expected * 1e6:,.0f}"
            f" | {each.batch / best * 1e6:,.0f} to {each.batch / worst * 1e6:,.0f}"
            f" | {each.floor_us / expected:.0%} | {each.own_floor_us / expected:.0%}"
            f" | {megabytes:,.0f} | {shares} |"
        )
    return "\n".join(lines)


def goals_table(sums: Iterable[Sum]) -> str:
    """The goals, judged on paper."""
    lines = [
        f"| machine | precision | goal | at most | {' | '.join(ASSUMED)} |",
        "| --- | --- | --- | ---: | --- | --- | --- |",
    ]
    for each in sums:
        for goal, limit in _goals(each):
            cells = (
                f"{'met' if each.us(key) <= limit else 'missed'}, {each.us(key):,.0f} us"
                for key in ASSUMED
            )
            lines.append(
                f"| {each.machine.upper()} | {each.precision} | batch {each.batch}: {goal}"
                f" | {limit:,.0f} us | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def _goals(each: Sum) -> Iterator[tuple[str, float]]:
    """Goals of a pass, and the most microseconds that each allows."""
    if each.batch == 64:
        yield f"{SHARE:.0%} of the layer-wise floor", each.floor_us / SHARE
    if compiled := COMPILED_US.get((each.machine, each.precision, each.batch)):
        yield f"{FASTER:g} times as fast as torch.compile", compiled / FASTER
    if each.batch == 1:
        us = TIMES * LAUNCHES * LAUNCH_US
        yield f"{TIMES} times {LAUNCHES} launches of {LAUNCH_US:g} us", us
        count = len(each.passes["expected"])
        measured = MACHINES[each.machine].launch_us
        yield f"{TIMES} times {count} launches of {measured:.2f} us", TIMES * count * measured


def launches_table(each: Sum) -> str:
    """A row for each launch; equal ones share a row."""
    rows: dict[str, list[str]] = {}
    for best, one, worst in zip(*(each.passes[key] for key in ASSUMED), strict=True):
        launch = one.launch
        bounds = " | ".join(f"{value:.1f}" if value else "-" for value in one.bounds.values())
        waste = f"{launch.macs / launch.useful:.2f}" if launch.useful else "-"
        row = (
            f"| {launch.kernel} | {launch.tile or '-'} | {launch.programs or '-'}"
            f" | {f'{one.waves:.2f}' if one.waves else '-'} | {one.memory_bytes / 1e6:.1f}"
            f" | {launch.bytes / 1e6:.1f} | {launch.macs / 1e9:.2f} | {waste} | {bounds}"
            f" | {one.us:.1f} | {best.us:.1f} to {worst.us:.1f} | {one.ruled_by}"
            f" | {MISSES[one.ruled_by]} |"
        )
        rows.setdefault(row, []).append(launch.name)
    head = [
        "launch",
        "kernel",
        "tile",
        "programs",
        "waves",
        "memory MB",
        "of MB",
        "GMAC",
        "of the network's",
        *(f"{name} us" for name in each.passes["expected"][0].bounds),
        "predicted us",
        "best to worst",
        "rules",
        "a miss would mean",
    ]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for row, names in rows.items():
        also = f" x{len(names)}" if len(names) > 1 else ""
        lines.append(f"| {names[0]}{also} {row}")
    return "\n".join(lines)


def machine_table(machine: Machine) -> str:
    """Values and where they come from."""
    lines = [f"| {machine.name} | value | source |", "| --- | ---: | --- |"]
    for name, source in machine.sources.items():
        value = getattr(machine, name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {rate:.3g}" for key, rate in value.items())
        elif isinstance(value, Ceiling):
            value = f"{value.operations_per_s:.3g}, {value.bytes_per_s:.3g}"
        else:
            value = f"{value:.4g}"
        lines.append(f"| `{name}` | {value} | {source} |")
    return "\n".join(lines)


def assumed_table() -> str:
    """The sets of assumptions."""
    lines = [f"| assumed | {' | '.join(ASSUMED)} |", f"| --- |{' ---: |' * len(ASSUMED)}"]
    for field in fields(ASSUMED["expected"]):
        values = " | ".join(f"{getattr(each, field.name):g}" for each in ASSUMED.values())
        lines.append(f"| `{field.name}` | {values} |")
    return "\n".join(lines)


def shown(sums: Sequence[Sum], show: Iterable[str], saved: Mapping[str, int]) -> str:
    """Tables, by name; the launches of each pass under its name."""
    names = dict.fromkeys(each.machine for each in sums)
    made: dict[str, Callable[[], list[str]]] = {
        "sums": lambda: [sums_table(sums)],
        "goals": lambda: [goals_table(sums)],
        "saved": lambda: [
            f"Batch 64 saves {saved['projection'] / 1e6:,.0f} MB by projections in the last product"
            f" of their blocks, and {saved['pool'] / 1e6:,.0f} MB by bias and ReLU after the pool."
        ],
        "machines": lambda: [machine_table(MACHINES[name]) for name in names],
        "assumed": lambda: [assumed_table()],
        "launches": lambda: [
            f"{each.machine.upper()}, {each.precision}, batch {each.batch}:\n\n"
            + launches_table(each)
            for each in sums
        ],
    }
    return "\n\n".join(text for name in show for text in made[name]())


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
