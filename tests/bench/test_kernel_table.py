"""The table of compiled kernels: it is what the compiler makes of them, complete, and good."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import triton
import triton.language as tl
from click.testing import CliRunner
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import kernel_table
from kernel_sass import Code, CompiledKernel, disassembled, read
from kernel_table import (
    LIMITS,
    TABLE,
    Key,
    Launch,
    blocks,
    broken,
    compiled,
    differences,
    main,
    read_table,
    row,
    rows,
    summary,
    wanted,
    written,
)

table = functools.cache(read_table)
launches = functools.cache(wanted)

#: Part of a kernel's name, architecture, type: one of each kind of code, cheap ones.
CHOSEN = [
    ("conv3x3 AHEAD=True CHANNELS=128 COLUMNS=64 GROUP=32 IMAGES=1 ROWS=28 STRIDE=1", 90, "fp16"),
    ("conv3x3 AHEAD=False CHANNELS=128 COLUMNS=64 GROUP=16 IMAGES=1 ROWS=28 STRIDE=1", 80, "fp16"),
    ("pointwise BLOCK=64 INPUTS=128 OUTPUTS=256 PIXELS=64 PROJECTED=64", 120, "fp16"),
    ("pointwise BLOCK=64 INPUTS=128 OUTPUTS=256 PIXELS=64 PROJECTED=0 SHORTCUT=True", 100, "fp16"),
    ("pool", 90, "bf16"),
]
LINE = "        /*{:04x}*/                   {} ;   /* 0x000000ff00ff7224 */\n"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing compiled before counts."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def found(start: str, arch: int, dtype: str) -> Key:
    return next(
        each
        for each in sorted(table())
        if each.kernel.startswith(start) and (each.arch, each.dtype) == (arch, dtype)
    )


@pytest.mark.usefixtures("own_cache")
def test_a_choice_of_rows_compiles_to_what_the_table_says() -> None:
    for start, arch, dtype in CHOSEN:
        place = found(start, arch, dtype)
        launch = launches()[place.kernel]
        kernel = compiled(launch.kernel, arch, dtype, launch.shape, launch.choice)
        assert row(kernel) == table()[place], place


@pytest.mark.exhaustive
@pytest.mark.usefixtures("own_cache")
def test_every_row_compiles_to_what_the_table_says() -> None:
    assert rows(launches(), 2) == table()


def test_every_choice_has_its_row_and_no_row_is_left_over() -> None:
    assert differences(table(), launches()) == []
    place = found("conv3x3", 90, "fp16")
    fewer = {each: value for each, value in table().items() if each != place}
    assert differences(fewer, launches()) == [f"no row: {place}"]
    names = {each: launch for each, launch in launches().items() if each != place.kernel}
    assert f"no choice has it: {place}" in differences(table(), names)


def test_no_row_breaks_a_rule() -> None:
    assert {place: rules for place, each in table().items() if (rules := broken(place, each))} == {}


@pytest.mark.parametrize(
    ("faults", "named"),
    [
        ({"spills": "2", "stack_bytes": "0"}, "registers are spilled"),
        ({"spills": "5", "stack_bytes": "24"}, "registers are spilled"),
        ({"registers": "256"}, "more than 255 registers"),
        ({"shared_bytes": str(LIMITS[120].block_bytes + 1)}, "more shared memory"),
        ({"blocks": "0"}, "no block fits"),
        ({"tensor": "", "products": "0"}, "no tensor cores"),
        ({"plain_maxima": "1"}, "loses NaN"),
        ({"loads16": "0", "loads8": "0"}, "no load of 8 bytes or 16"),
        ({"stores_narrow": "1"}, "a store of less than 8 bytes"),
    ],
)
def test_a_planted_fault_is_named(faults: dict[str, str], named: str) -> None:
    place = found("conv3x3", 120, "fp16")
    (rule,) = broken(place, table()[place] | faults)
    assert named in rule


def test_an_h100_spills_nothing() -> None:
    place = found("conv3x3", 90, "fp16")
    assert broken(place, table()[place] | {"spills": "2", "stack_bytes": "8"}) == [
        "registers are spilled"
    ]


def test_a_kernel_without_products_is_not_taken_for_one_with() -> None:
    pool = found("pool", 90, "fp16")
    assert broken(pool, table()[pool]) == []
    assert broken(Key("conv3x3", 90, "fp16"), table()[pool]) == ["no tensor cores"]


@triton.jit
def relu_by_maximum(x, y):  # type: ignore[no-untyped-def]
    place = tl.arange(0, 128)
    tl.store(y + place, tl.maximum(tl.load(x + place), 0.0))


@pytest.mark.usefixtures("own_cache")
def test_a_relu_by_a_plain_maximum_is_seen() -> None:
    signature = {"x": "*fp32", "y": "*fp32"}
    binary = triton.compile(
        ASTSource(relu_by_maximum, signature, {}, {}), target=GPUTarget("cuda", 90, 32)
    )
    code, loops = read(disassembled(binary.asm["cubin"])[0])
    assert code.plain_maxima > 0
    assert loops == ()


@pytest.mark.parametrize(
    ("name", "plain"),
    [("FMNMX", 1), ("FMNMX.NAN", 0), ("HMNMX2.NAN", 0), ("HMNMX2", 1), ("VHMNMX.NAN", 0)],
)
def test_which_maxima_lose_nan(name: str, plain: int) -> None:
    assert Code(1, {name: 1}).plain_maxima == plain


def test_loops_are_found_in_a_disassembly() -> None:
    lines = [
        "LDG.E.128 R4, desc[UR4][R2.64]",
        "LDGSTS.E.BYPASS.128 [R7], desc[UR4][R2.64]",  # 0x10: the loop's first
        "HGMMA.64x32x16.F32 R24, gdesc[UR4].tnspB, R24",
        "STG.E.U16 desc[UR4][R2.64], R5",
        "@P0 BRA 0x10",
        "@!P1 BRA 0x50",  # waits, without products
        "EXIT",
        "BRA 0x20",  # back from a wait that is seldom run
        "NOP",
    ]
    text = "".join(LINE.format(16 * index, line) for index, line in enumerate(lines))
    code, loops = read(text)
    assert (code.instructions, code.tensor) == (8, 1)
    (loop,) = loops
    assert (loop.instructions, loop.tensor, loop.count("LDG")) == (4, 1, 0)
    assert code.widths("LDG", "LDGSTS") == {16: 2}
    assert code.widths("STG") == {2: 1}
    # The other form, of the newest architectures.
    newer = text.replace(" ;   /* 0x000000ff00ff7224 */", "   &req={0}   ?WAIT15_END_GROUP;")
    assert read(newer) == (code, loops)
    assert read(LINE.format(0, "BPT.TRAP 0x1"))[0].tensor == 0


@pytest.mark.parametrize(
    ("arch", "registers", "shared_kb", "warps", "expected"),
    [
        (90, 124, 34, 4, (4, "registers")),
        (90, 42, 30.5, 4, (7, "shared memory")),
        (120, 40, 1, 4, (12, "registers")),
        (120, 32, 1, 8, (6, "warps")),
        (80, 32, 0, 1, (32, "blocks")),
        (120, 64, 100, 4, (0, "shared memory")),
    ],
)
def test_blocks_on_a_multiprocessor(
    arch: int, registers: int, shared_kb: float, warps: int, expected: tuple[int, str]
) -> None:
    code = Code(0, {})
    shared = int(shared_kb * 1024)
    kernel = CompiledKernel(
        "pool", arch, "fp16", {}, warps, 1, 1, registers, 0, 0, shared, "", code, (), ""
    )
    assert blocks(kernel) == expected


def test_the_files_are_what_the_script_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TABLE.stat().st_size < 300_000
    assert TABLE.read_text() == written(table())
    assert kernel_table.SUMMARY.read_text() == summary(table())

    stored = table()
    asked: list[object] = []

    def fake(wanted: dict[str, Launch], jobs: int, *, progress: bool) -> dict[Key, object]:
        asked.append((len(wanted), jobs, progress))
        return dict(stored)

    monkeypatch.setattr(kernel_table, "rows", fake)
    monkeypatch.setattr(kernel_table, "TABLE", tmp_path / "kernels" / "compiled.csv")
    monkeypatch.setattr(kernel_table, "SUMMARY", tmp_path / "compiled.md")
    result = CliRunner().invoke(main, ["--jobs", "3"])
    assert result.exit_code == 0, result.output
    assert asked == [(len(launches()), 3, True)]
    assert read_table(tmp_path / "kernels" / "compiled.csv") == stored
    place = found("pointwise", 80, "fp16")
    stored = stored | {place: stored[place] | {"spills": "4", "stack_bytes": "24"}}
    result = CliRunner().invoke(main)
    assert result.exit_code == 1
    assert result.output == f"{place.kernel}, sm_80, fp16: registers are spilled\n"
    assert json.dumps(stored[place])  # plain strings
