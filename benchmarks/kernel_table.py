"""Compiles every kernel that ResNeXt-50 may run on a GPU, without one, into a table.

    python benchmarks/kernel_table.py [--jobs 2]

For each layer's shape at batch 1, 8, 64 and 256, and each choice of `resnext.kernels.tiles`, a row
says what the assembler made of it: registers, spills, shared memory, blocks that fit on a
multiprocessor, instructions of tensor cores, loads, barriers. Launches that compile to the same
share a row. `tests/bench/test_kernel_table.py` holds the table, and the choices to it.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import click
import torch
import triton

from kernel_sass import (
    RESERVED,
    Code,
    CompiledKernel,
    PoolShape,
    compiled,
    specialized,
)
from resnext.kernels.network import First, fused_network
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvChoice, ConvShape, ProductShape
from resnext.network.config import variant
from resnext.network.model import ResNeXt

__all__ = ["CompiledKernel", "PoolShape", "compiled"]

TABLE = Path(__file__).parents[1] / "docs" / "results" / "kernels" / "compiled.csv"
SUMMARY = TABLE.parents[1] / "fused-kernels-compiled.md"
NETWORK = "resnext50_32x4d"
BATCHES = (1, 8, 64, 256)


class Limits(NamedTuple):
    """What a multiprocessor has: CUDA C++ Programming Guide, table "Technical Specifications per
    Compute Capability".

    Attributes:
        name: a GPU of this architecture.
        registers: of a multiprocessor, 32 bits each.
        warps, blocks: resident ones.
        shared_bytes: of a multiprocessor.
        block_bytes: shared memory that a block may have.
        stack_bytes: of a thread, that a kernel may spill. At times the assembler keeps 8 or 16
            bytes on the stack to use one unit of registers less; not on sm_90.
    """

    name: str
    registers: int
    warps: int
    blocks: int
    shared_bytes: int
    block_bytes: int
    stack_bytes: int


LIMITS = {
    80: Limits("A100", 65536, 64, 32, 164 << 10, 163 << 10, 16),
    90: Limits("H100", 65536, 64, 32, 228 << 10, 227 << 10, 0),
    100: Limits("B200", 65536, 64, 32, 228 << 10, 227 << 10, 16),
    120: Limits("RTX 5090", 65536, 48, 24, 100 << 10, 99 << 10, 16),
}
#: Registers are allotted to warps in these units, and a thread has at most so many.
_UNIT, MOST_REGISTERS = 256, 255

Shape = ConvShape | ProductShape | PoolShape
Choice = ConvChoice | ProductTile | None


class Launch(NamedTuple):
    """A layer's kernel, and how its work is cut."""

    kernel: str
    shape: Shape
    choice: Choice


class Key(NamedTuple):
    """Of a row.

    Attributes:
        kernel: what a launch compiles to, by `key`.
        arch: compute capability times ten.
        dtype: ``fp16`` or ``bf16``.
    """

    kernel: str
    arch: int
    dtype: str


def blocks(kernel: CompiledKernel) -> tuple[int, str]:
    """Blocks of a kernel that fit on a multiprocessor, and what limits them."""
    limits = LIMITS[kernel.arch]
    a_warp = -(-kernel.registers * 32 // _UNIT) * _UNIT
    fitting = {
        "registers": limits.registers // a_warp // kernel.warps,
        "shared memory": limits.shared_bytes // (kernel.shared_bytes + RESERVED),
        "warps": limits.warps // kernel.warps,
        "blocks": limits.blocks,
    }
    least = min(fitting, key=fitting.__getitem__)
    return fitting[least], least


def launches(network: str = NETWORK, batches: Iterable[int] = BATCHES) -> list[Launch]:
    """Every launch of a network that a tuner may try; nothing is computed."""
    config, found = variant(network), _Choices()
    with torch.device("meta"):
        model = ResNeXt(config).eval()
    for batch in batches:
        fused_network(model, batch, torch.float16, found)
        height, columns = ((side - 1) // 2 + 1 for side in config.input_size)
        pool = PoolShape(batch, config.stem_channels, height, columns)
        found.launches.setdefault(Launch("pool", pool, None))
    return list(found.launches)


def key(launch: Launch) -> str:
    """What a launch compiles to, in words: launches of the same key share a row."""
    asked = specialized(launch.kernel, 90, "fp16", launch.shape, launch.choice)
    constants = " ".join(f"{name}={each}" for name, each in sorted(asked.named_constants.items()))
    warps, stages = asked.options["num_warps"], asked.options["num_stages"]
    return f"{launch.kernel} {constants} warps={warps} stages={stages}"


def wanted(network: str = NETWORK) -> dict[str, Launch]:
    """A launch for each key."""
    chosen: dict[str, Launch] = {}
    for launch in launches(network):
        chosen.setdefault(key(launch), launch)
    return chosen


def row(kernel: CompiledKernel) -> dict[str, str]:
    """The columns of a compiled kernel; "loop" is the one with most products."""
    code, fit = kernel.code, blocks(kernel)
    loop = kernel.loop or Code(0, {})
    loads, stores = code.widths("LDG", "LDGSTS"), code.widths("STG")
    values = {
        "arch": kernel.arch,
        "dtype": kernel.dtype,
        "registers": kernel.registers,
        "stack_bytes": kernel.stack_bytes,
        "spills": kernel.spills,
        "shared_bytes": kernel.shared_bytes,
        "blocks": fit[0],
        "limit": fit[1],
        "tensor": kernel.tensor,
        "products": code.tensor,
        "instructions": code.instructions,
        "loop_products": loop.tensor,
        "loop_instructions": loop.instructions,
        "loads16": loads.get(16, 0),
        "loads8": loads.get(8, 0),
        "loads_narrow": sum(each for width, each in loads.items() if width < 8),
        "stores16": stores.get(16, 0),
        "stores8": stores.get(8, 0),
        "stores_narrow": sum(each for width, each in stores.items() if width < 8),
        "loop_shared_stores": loop.count("STS"),
        "loop_shared_loads": loop.count("LDS", "LDSM"),
        "loop_barriers": loop.count("BAR"),
        "loop_waits": loop.names.get("WARPGROUP.DEPBAR.LE", 0),
        "plain_maxima": code.plain_maxima,
        "conversions": code.count("F2FP", "F2F"),
    }
    return {name: str(each) for name, each in values.items()}


def places(wanted: Mapping[str, Launch]) -> list[Key]:
    """Rows of ``wanted`` kernels: float16 for every architecture, and bfloat16 on sm_90 for the
    first choices at batch 64.
    """
    keys = [Key(name, arch, "fp16") for arch in LIMITS for name in wanted]
    firsts = {key(launch): None for launch in _firsts(64)}
    return keys + [Key(name, 90, "bf16") for name in firsts if name in wanted]


def differences(table: Iterable[Key], wanted: Mapping[str, Launch]) -> list[str]:
    """What a table lacks, and what it has for nothing."""
    has, needs = set(table), set(places(wanted))
    return [f"no row: {each}" for each in sorted(needs - has)] + [
        f"no choice has it: {each}" for each in sorted(has - needs)
    ]


def rows(
    wanted: Mapping[str, Launch], jobs: int, *, progress: bool = False
) -> dict[Key, dict[str, str]]:
    """Compile all `places` of ``wanted``.

    Args:
        wanted: launches by key.
        jobs: processes.
        progress: show a bar.
    """
    keys = places(wanted)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        found = pool.map(_row_of, ((key, wanted[key.kernel]) for key in keys))
        with click.progressbar(found, len(keys), hidden=not progress) as bar:
            return dict(zip(keys, bar, strict=True))


def written(table: Mapping[Key, dict[str, str]]) -> str:
    """The table as CSV."""
    file = io.StringIO()
    first = next(iter(table.values()))
    writer = csv.DictWriter(file, ["kernel", *first], lineterminator="\n")
    writer.writeheader()
    for place, each in sorted(table.items()):
        writer.writerow({"kernel": place.kernel, **each})
    return file.getvalue()


def read_table(path: Path = TABLE) -> dict[Key, dict[str, str]]:
    """The stored table."""
    table = {}
    with path.open(newline="") as file:
        for each in csv.DictReader(file):
            name = each.pop("kernel")
            table[Key(name, int(each["arch"]), each["dtype"])] = each
    return table


def broken(place: Key, each: Mapping[str, str]) -> list[str]:
    """The rules that a row breaks."""
    limits, pool = LIMITS[place.arch], place.kernel.startswith("pool")
    number = {name: int(value) for name, value in each.items() if value.isdigit()}
    rules = {
        "registers are spilled": number["stack_bytes"] > limits.stack_bytes
        or bool(number["spills"]) > bool(number["stack_bytes"]),
        f"more than {MOST_REGISTERS} registers": number["registers"] > MOST_REGISTERS,
        "more shared memory than a block may have": number["shared_bytes"] > limits.block_bytes,
        "no block fits on a multiprocessor": not number["blocks"],
        "no tensor cores": not pool and not (each["tensor"] and number["products"]),
        "a maximum loses NaN": number["plain_maxima"],
        "no load of 8 bytes or 16": not number["loads8"] + number["loads16"],
        "a store of less than 8 bytes": number["stores_narrow"],
    }
    return [rule for rule, is_broken in rules.items() if is_broken]


def summary(table: Mapping[Key, dict[str, str]]) -> str:
    """A page on the first choices at batch 64."""
    spilling = [
        place.arch
        for place, each in table.items()
        if int(each["stack_bytes"]) or int(each["spills"])
    ]
    where = ", ".join(f"{spilling.count(arch)} on sm_{arch}" for arch in sorted(set(spilling)))
    text = f"""# What the kernels compile to

<!-- written by benchmarks/kernel_table.py -->

Every launch that `torch-fused` may try for {NETWORK} at batch {_listed(BATCHES)},
compiled without a GPU by Triton {triton.__version__} and its assembler: {len(table)} rows in
[compiled.csv](kernels/compiled.csv), float16 for four architectures, and bfloat16 on sm_90 for the
first choices at batch 64. Launches that compile to the same share a row. All products run on tensor
cores, and no maximum loses NaN. Registers are spilled in {len(spilling)} rows ({where or "none"}),
16 bytes of a thread at most. A test holds the table to the compiler and to these rules. Nothing on
this page was measured on a GPU.

The first choices at batch 64, float16. *Blocks* fit on a multiprocessor, and what limits them.
*Loop*: instructions of a turn of the loop; of them, instructions of tensor cores and, on sm_90,
waits for them.
"""
    lines = [
        "| layer | arch | registers | shared KB | blocks | tensor cores | loop |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for launch in _firsts(64):
        for arch in LIMITS:
            each = table[Key(key(launch), arch, "fp16")]
            loop = (
                f"{each['loop_instructions']}, {each['loop_products']}, {each['loop_waits']}"
                if int(each["loop_products"])
                else f"none: {each['instructions']}, {each['products']} in all"
            )
            lines.append(
                f"| {_named(launch)} | sm_{arch} | {each['registers']} |"
                f" {int(each['shared_bytes']) / 1024:.1f} | {each['blocks']} ({each['limit']}) |"
                f" {each['tensor'] or 'none'} | {loop} |"
            )
    return text + "\n" + "\n".join(lines) + "\n"


@functools.cache
def _firsts(batch: int) -> list[Launch]:
    taken: dict[tuple[str, Shape], Launch] = {}
    for launch in launches(batches=[batch]):
        taken.setdefault((launch.kernel, launch.shape), launch)
    return list(taken.values())


def _named(launch: Launch) -> str:
    shape = launch.shape
    if isinstance(shape, ConvShape):
        merged = launch.choice.width if isinstance(launch.choice, ConvChoice) else 0
        stride = f"/{shape.stride}" if shape.stride > 1 else ""
        return f"3x3, {shape.channels} in {shape.width}, merged {merged}, {shape.height}{stride}"
    if isinstance(shape, ProductShape):
        more = f" + {shape.projected}" if shape.projected else " + shortcut" * shape.shortcut
        return f"1x1, {shape.inputs}{more} to {shape.outputs}"
    return "pool"


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}"


class _Choices(First):
    """Notes every choice, and takes the first."""

    def __init__(self) -> None:
        self.launches: dict[Launch, None] = {}

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        self.launches.update(dict.fromkeys(Launch("conv3x3", shape, each) for each in choices))
        return super().conv(shape, choices)

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        self.launches.update(dict.fromkeys(Launch("pointwise", shape, each) for each in choices))
        return super().product(shape, choices)


def _row_of(work: tuple[Key, Launch]) -> dict[str, str]:
    place, launch = work
    return row(compiled(launch.kernel, place.arch, place.dtype, launch.shape, launch.choice))


@click.command(help=__doc__)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Processes.")
def main(jobs: int) -> None:
    """Write the table and its summary; fail if a row breaks a rule."""
    table = rows(wanted(), jobs, progress=True)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(written(table))
    SUMMARY.write_text(summary(table))
    found = [
        f"{place.kernel}, sm_{place.arch}, {place.dtype}: {rule}"
        for place, each in sorted(table.items())
        for rule in broken(place, each)
    ]
    click.echo("\n".join(found) or f"{len(table)} rows, no rule broken")
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
