"""The roofline of the GPU kernels: closed forms, bookkeeping, and what the documents say."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from kernel_roofline import BLOCK, main
from kernel_roofline import updated as updated_text
from resnext.kernels import pool
from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvChoice, ConvShape, ProductShape, product_choices
from resnext.network.config import ResNeXtConfig, variant
from resnext.network.layers import macs
from resnext_bench.limits.floors import Ceiling, floors
from roofline.accounts import differences, saved_bytes
from roofline.assembled import assembled
from roofline.bounds import MISSES, predict, resident
from roofline.choice import OnPaper
from roofline.launch import Launch, Read, grouped_launch, product_launch
from roofline.launches import launches
from roofline.machines import ASSUMED, MACHINES, Assumed, Machine
from roofline.sums import COMPILED_US, predicted
from roofline.tables import SHOWN, goals_table, launches_table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "fused-kernels.md"
RESNEXT50 = variant("resnext50_32x4d")
SMALL = ResNeXtConfig((1, 2), 8, 4, (32, 32), num_classes=10, stem_channels=16)
#: One operation, byte or cycle a microsecond where a test needs to add up by hand.
ROUND = Machine(
    "round",
    1e6,
    MappingProxyType({"fp16": 2e6}),
    0.25,
    1e6,
    2,
    100,
    1e6,
    3,
    5,
    Ceiling(1, 1),
    MappingProxyType({}),
)
IDEAL = Assumed(1, 1, 1, 1, 1, 1, 1, 1, 1)


def test_a_grouped_convolution_by_hand() -> None:
    # 2 images of 4x4 and 2 groups of 16: two strips of 2 rows, for each group.
    launch = grouped_launch(ConvShape(2, 32, 16, 4, 4, 1), ConvTile(4, 4, 2, 4, 1))
    assert launch.programs == 4
    # Products of 16 pixels x 16 x 16: 9 for each row, and 9 of the rows before the first.
    assert launch.macs == 4 * (9 * 2 + 9) * 16 * 16 * 16
    # Each strip reads its own two rows and one more of its neighbor's, two in all.
    read, weights, written = 2 * (4 + 2) * 4 * 32 * 2, 4 * 9 * 16 * 16 * 2, 2 * 4 * 4 * 32 * 2
    assert launch.l2_once == read + weights + written
    assert launch.l2_again == 2 * read
    assert launch.bytes == 2 * written
    assert launch.steps == 4
    strided = grouped_launch(ConvShape(1, 16, 16, 5, 5, 2), ConvTile(4, 4, 3, 4, 1))
    assert (strided.programs, strided.macs) == (1, (9 * 3 + 3) * 16 * 16 * 16)
    assert strided.l2_once == (5 * 5 + 3 * 3) * 16 * 2 + 9 * 16 * 16 * 2


def test_a_product_by_hand() -> None:
    tile = ProductTile(64, 32, 64, 4, 3)
    launch = product_launch(ProductShape(100, 96, 40), tile)
    assert (launch.programs, launch.macs) == (4, 4 * 64 * 32 * 128)
    # The input for each of two blocks of outputs, the weights for each of two tiles of pixels.
    assert launch.l2_once == 2 * (96 * (100 * 2 + 40 * 2) + 100 * 40)
    assert launch.shared == 3 * 2 * (64 * 64 + 64 * 32)
    assert launch.steps == 1 + 1 / 2 + 1
    fused = product_launch(ProductShape(100, 96, 40, projected=64), tile)
    assert fused.macs == launch.macs + 4 * 64 * 32 * 64
    assert fused.written == launch.written
    added = product_launch(ProductShape(100, 96, 40, shortcut=True), tile)
    assert added.bytes - launch.bytes == added.l2_once - launch.l2_once == 2 * 100 * 40


def test_the_pool_is_cut_as_its_kernel_cuts_it() -> None:
    grids = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda *_, **constants: grids.append((32 * constants["num_warps"],))

    x, y = torch.empty(3, 16, 30, 30), torch.empty(3, 16, 15, 15)
    pool.launch(Kernel(), x, torch.empty(16), y)
    (found,) = (
        each for each in launches(replace(SMALL, input_size=(60, 60)), 3) if each.name == "pool"
    )
    assert [math.prod(grids[0]), *grids[1]] == [found.programs, 32 * found.warps]


def launch_of(**changed: Any) -> Launch:
    """One that needs next to nothing."""
    return replace(
        Launch("a", "pointwise", "", (), 0, 0, programs=2, registers=1, steps=0), **changed
    )


@pytest.mark.parametrize(
    ("bound", "changed", "us"),
    [
        ("memory", {"written": 30, "reads": (Read(None, 12),)}, 42),
        ("tensor", {"macs": 7}, 7),
        # Three programs on two multiprocessors: one does two thirds of the work.
        ("tensor", {"macs": 30, "programs": 3}, 40),
        ("L2", {"l2_once": 9, "l2_again": 100}, 9),
        ("L1", {"l1": 2560}, 10),
        ("issue", {"instructions": 40.0}, 10),
        ("latency", {"steps": 2}, 6),
        # Nothing that L2 holds: memory's 5 cycles.
        ("latency", {"steps": 20, "reads": (Read(None, 1),)}, 100),
        # 130 programs, 32 at once on each of two multiprocessors: three turns.
        ("latency", {"steps": 2, "programs": 130, "warps": 1}, 18),
        ("launch", {"written": 0}, 0),
    ],
)
def test_a_bound_by_hand(bound: str, changed: dict[str, Any], us: float) -> None:
    (found,) = predict([launch_of(**changed)], ROUND, IDEAL)
    assert found.ruled_by == bound
    assert found.us == pytest.approx(us + 0.25)
    assert max(found.bounds.values()) == pytest.approx(us)
    assert set(found.bounds) | {"launch"} == set(MISSES)


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        ({}, 16),
        ({"warps": 1}, 32),
        ({"registers": 128}, 4),
        ({"registers": 255, "warps": 16}, 1),
        ({"shared": 100 * 1024}, 2),
    ],
)
def test_resident_programs(changed: dict[str, Any], count: int) -> None:
    assert resident(launch_of(**changed)) == count


@pytest.mark.parametrize(("between", "through"), [(80, 10), (90, 30)])
def test_what_fits_is_read_from_l2(between: int, through: int) -> None:
    first = launch_of(written=20)
    second = launch_of(written=between)
    third = launch_of(written=10, reads=(Read(0, 20),))
    assert [each.memory_bytes for each in predict([first, second, third], ROUND, IDEAL)] == [
        20,
        between,
        through,
    ]


@pytest.mark.parametrize("config", [SMALL, RESNEXT50], ids=["small", "resnext50"])
def test_bytes_and_macs_are_those_of_the_layers(config: ResNeXtConfig) -> None:
    found = launches(config, 2)
    assert differences(found, config, 2) == {}
    assert sum(each.useful for each in found) == 2 * macs(config)
    # And once more from the floors: less the projections' outputs, plus the zeros between groups.
    counted = sum(each.bytes for each in found)
    zeros = sum(
        2 * 9 * each.shape.channels * (each.shape.width - each.shape.channels // config.cardinality)
        for each in found
        if isinstance(each.shape, ConvShape)
    )
    layers = floors(config, "fp16", 2, Ceiling(1e30, 1.0)).layers_s
    assert counted == layers - saved_bytes(config, 2)["projection"] + zeros


@pytest.mark.parametrize("name", ["pool", "layer1.0.conv2", "layer2.0.conv3", "fc"])
@pytest.mark.parametrize("fault", ["counted twice", "left out", "written twice"])
def test_planted_bytes_are_seen(name: str, fault: str) -> None:
    found = launches(SMALL, 2)
    planted = []
    for each in found:
        if each.name != name:
            planted.append(each)
        elif fault == "counted twice":
            planted.append(replace(each, reads=(*each.reads, each.reads[-1])))
        elif fault == "written twice":
            planted.append(replace(each, written=2 * each.written))
    assert list(differences(planted, SMALL, 2)) == [name]


def test_sums_add_up_and_grow_with_the_batch() -> None:
    sums = list(predicted(RESNEXT50, MACHINES, ["fp16", "bf16"], [1, 8, 64]))
    assert len(sums) == 12
    for each in sums:
        for passed in each.passes.values():
            assert all(
                one.us == pytest.approx(max(one.bounds.values()) + one.launch_us) for one in passed
            )
        assert each.us() == pytest.approx(sum(one.us for one in each.passes["expected"]))
        assert each.us("best") < each.us() < each.us("worst")
    for smaller, larger in pairwise(sums):
        if smaller.batch < larger.batch:
            assert smaller.us() < larger.us()
            assert smaller.us() / smaller.batch > larger.us() / larger.batch


def test_wrong_bytes_end_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(SMALL, 1)
    monkeypatch.setattr("roofline.sums.untried", lambda *_: found[:-1])
    with pytest.raises(ValueError, match=r"batch 1: bytes .* differ: \{'fc': "):
        list(predicted(SMALL, ["h100"], ["fp16"], [1]))


def test_the_floor_is_that_of_the_documents() -> None:
    assert round(1e6 * floors(RESNEXT50, "fp16", 64, MACHINES["h100"].sheet).layers_s) == 1311


@pytest.mark.parametrize("name", MACHINES)
def test_measured_values_are_those_of_the_runs(name: str) -> None:
    machine = MACHINES[name]
    path = ROOT / "benchmarks" / "results" / f"2026-11-27-{name}-acceptance.json"
    rows = {
        row["cell"]: row
        for row in json.loads(path.read_text())["rows"]
        if "ceilings" in row["step"]
    }
    assert machine.name == rows["copy"]["device"]
    assert machine.copy_bytes_s / 1e12 == pytest.approx(rows["copy"]["tb_s"], rel=1e-3)
    assert machine.clock_hz / 1e6 == rows["copy"]["sm_mhz"]
    assert machine.launch_us == pytest.approx(rows["empty launch"]["launch_us"], rel=1e-3)
    for precision, rate in machine.products_s.items():
        tflops = rows[f"{precision} product"]["tflops"]
        assert rate / 1e12 == pytest.approx(tflops, rel=1e-3)
    assert set(machine.sources) == {each.name for each in fields(Machine)} - {"name", "sources"}


def test_torch_compile_took_what_the_run_says() -> None:
    path = ROOT / "benchmarks" / "results" / "2026-11-27-h200-resnext50-fp16.json"
    (row,) = (
        row for row in json.loads(path.read_text())["rows"] if row["backend"] == "torch-compile"
    )
    (graph,) = (each for each in row["timings"] if each["boundary"] == "graph")
    assert graph["stats"]["median_ns"] / 1000 == pytest.approx(
        COMPILED_US["h200", "fp16", 64], abs=0.1
    )


def test_the_best_tile_on_paper_is_no_slower() -> None:
    machine, assumed = MACHINES["h100"], ASSUMED["expected"]
    shape = ProductShape(392, 1024, 2048)
    choices = product_choices(shape)
    best = OnPaper(machine, assumed).product(shape, choices)
    times = {
        tile: predict([product_launch(shape, tile)], machine, assumed)[0].us for tile in choices
    }
    assert times[best] == min(times.values())
    assert max(times.values()) > times[best]


def test_what_the_assembler_found_replaces_estimates() -> None:
    asked = []

    def compiled(kernel: str, arch: int, dtype: str, shape: Any, choice: Any) -> Any:
        asked.append((kernel, arch, dtype, type(shape), type(choice)))
        loop = SimpleNamespace(instructions=100)
        return SimpleNamespace(
            registers=77, shared_bytes=5, loops=[loop], code=SimpleNamespace(instructions=1000)
        )

    conv = grouped_launch(ConvShape(2, 32, 16, 4, 4, 1), ConvTile(4, 4, 3, 4, 1))
    product = product_launch(ProductShape(100, 96, 40), ProductTile(64, 32, 32, 8, 3))
    plain = launch_of()
    found = assembled([conv, product, conv, plain], compiled, "bf16")
    assert [each.instructions for each in found] == [4 * 1200, 8 * 1200, 4 * 1200, None]
    assert [each.registers for each in found] == [77, 77, 77, plain.registers]
    assert asked == [
        ("conv3x3", 90, "bf16", ConvShape, ConvChoice),
        ("pointwise", 90, "bf16", ProductShape, ProductTile),
    ]


def test_what_stays_pytorchs_is_listed() -> None:
    wide = replace(SMALL, cardinality=1, bottleneck_width=96, stem="small")
    found = launches(wide, 1)
    assert [each.name for each in found if each.kernel == "torch"][:6] == [
        *("conv1", "conv1 bias", "conv1 ReLU"),
        *("layer1.0.conv2", "layer1.0.conv2 bias", "layer1.0.conv2 ReLU"),
    ]
    assert differences(found, wide, 1) == {}


def test_the_command_prints_what_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "roofline.json"
    options = ["--batch", "64", "--machine", "h200", "--show", ",".join(SHOWN), "--json", str(file)]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0
    stored = json.loads(file.read_text())
    assert stored["measured"] is False
    (passed,) = stored["passes"]
    assert sum(each["us"] for each in passed["launches"]) == pytest.approx(passed["us"]["expected"])
    for text in ("| H200 | fp16 | 64 |", "as fast as torch.compile", "saves 385 MB", "`caught`"):
        assert text in result.output
    assert result.output.count("layer1.1.conv2") == 0  # shares the row of layer1.0.conv2
    (row,) = (line for line in result.output.splitlines() if line.startswith("| layer1.0.conv2"))
    assert "x3" in row
    assert any(meaning in row for meaning in MISSES.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--machine", "b200"], "'b200': one of h100, h200"),
        (["--batch", "0"], "'0': numbers of images"),
        (["--batch", "x"], "'x': numbers of images"),
        (["--show", "all"], "'all': one of sums"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    assert message in result.output


def test_a_goal_is_met_or_missed() -> None:
    sums = list(predicted(SMALL, ["h100"], ["fp16"], [1, 64]))
    rows = goals_table(sums).splitlines()[2:]
    assert [row.split("|")[3].split(":")[0].strip() for row in rows] == ["batch 1"] * 2 + [
        "batch 64"
    ]
    assert "met, " in rows[0]
    assert "missed, " in rows[2]
    assert launches_table(sums[0]).count("\n") > 5


TABLE = "<!-- kernel_roofline.py --batch 64 --machine h100 --show {} -->\n{}<!-- end -->"


def test_tables_of_a_file_are_made_anew() -> None:
    made = updated_text(f"a\n{TABLE.format('saved', 'old')}\nb\n{TABLE.format('assumed', '')}\n")
    assert "old" not in made
    assert "saves 385 MB" in made
    assert "`kept`" in made
    assert made.startswith("a\n<!-- ")
    assert updated_text(made) == made


def test_the_page_says_what_is_predicted_now() -> None:
    blocks = [found[0] for found in BLOCK.finditer(PAGE.read_text())]
    first = [block for block in blocks if "--tiles paper" not in block]
    assert len(first) >= 4
    hint = "run: python benchmarks/kernel_roofline.py --update docs/results/fused-kernels.md"
    for block in first:
        assert updated_text(block) == block, hint


@pytest.mark.exhaustive
def test_the_whole_page_says_what_is_predicted_now() -> None:
    text = PAGE.read_text()
    assert updated_text(text) == text
