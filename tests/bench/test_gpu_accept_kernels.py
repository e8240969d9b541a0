"""The acceptance's steps on our kernels: every way to run a layer is held against float64, the
fastest right one of ours is kept, and a library that refuses one ends nothing.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpu_acceptance import kernels
from gpu_acceptance.cases import (
    Case,
    CompileOnly,
    Way,
    compile_all,
    conv_case,
    grouped_layers,
    pool_case,
    product_case,
    product_layers,
)
from gpu_acceptance.device import SMALL, Bench, Forward, measure_group
from gpu_acceptance.kernels import Winners, floor_us, winner_cell
from gpu_acceptance.rows import DEVICE_LOST, Row, read_rows, under_way
from resnext.kernels.tiles import ConvShape, ProductShape, conv_choices, product_choices
from resnext.network.config import VARIANTS
from resnext.network.forms import fold_batch_norms
from resnext.network.model import ResNeXt
from resnext_bench.limits.floors import Ceiling, layer_floor

BATCH = 1


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(kernels, "ROUNDS", 1)
    monkeypatch.setattr(kernels, "ROUND_S", 0.001)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # slow over all that pytest has imported
    return Bench(
        "kernels", tmp_path / "rows.jsonl", tmp_path / "cache", rehearse=True, resume=False
    )


@pytest.fixture(scope="module")
def model() -> ResNeXt:
    torch.manual_seed(0)
    return fold_batch_norms(ResNeXt(SMALL).eval().requires_grad_(False))


def rows_of(bench: Bench) -> dict[str, Row]:
    return {row["cell"]: row for row in read_rows(bench.rows)}


def test_the_layers_are_those_of_the_network_each_once() -> None:
    config = VARIANTS["resnext50_32x4d"]
    assert [layer.name for layer in grouped_layers(config)] == [
        "layer1.0.conv2",
        *(f"layer{stage}.{block}.conv2" for stage in (2, 3, 4) for block in (0, 1)),
    ]
    products = [layer.name for layer in product_layers(config)]
    assert len(products) == len(set(products)) == 16
    assert {"layer1.0.conv3", "layer1.1.conv3"} < set(products)  # a projection, a shortcut


def cases(bench: Bench, model: ResNeXt) -> Mapping[str, Callable[[int, str], Case]]:
    grouped = {layer.name: layer for layer in grouped_layers(SMALL)}
    products = {layer.name: layer for layer in product_layers(SMALL)}
    return {
        "3x3": partial(conv_case, bench, model, grouped["layer1.0.conv2"]),
        "3x3 strided": partial(conv_case, bench, model, grouped["layer2.0.conv2"], few=True),
        "1x1": partial(product_case, bench, model, products["layer2.0.conv1"]),
        "1x1 projected": partial(product_case, bench, model, products["layer2.0.conv3"]),
        "pool": partial(pool_case, bench, model),
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("3x3", marks=pytest.mark.exhaustive),
        pytest.param("1x1", marks=pytest.mark.exhaustive),
        "3x3 strided",
        "1x1 projected",
        "pool",
    ],
)
def test_every_way_to_run_a_layer_is_float64s(name: str, bench: Bench, model: ResNeXt) -> None:
    kernels._measure(bench, name, BATCH, "fp16", cases(bench, model)[name])
    rows = rows_of(bench)
    assert {row["status"] for row in rows.values()} == {"ok"}
    best = rows[winner_cell(name, BATCH, "fp16")]
    ours = [row for cell, row in rows.items() if " ours" in cell]
    assert best["median_us"] == min(row["median_us"] for row in ours)
    assert best["ratio"] > 0
    assert "alone" not in best["against"]  # which computes less than the layer


def test_the_floor_is_the_layers(bench: Bench, model: ResNeXt) -> None:
    for layer in (*grouped_layers(SMALL), *product_layers(SMALL)):
        if not layer.name.endswith(".conv3"):  # with its projection it is another layer
            make = conv_case if layer.name.endswith(".conv2") else product_case
            case = make(bench, model, layer, BATCH, "fp16")
            floor = layer_floor(layer, "fp16", BATCH, Ceiling(800e12, 3.35e12))
            assert floor_us(case, "fp16") == pytest.approx(1e6 * floor.seconds), layer.name


def fake(**ways: Callable[[], Tensor] | Exception) -> Callable[[int, str], Case]:
    """A layer that gives ones; ways that begin with ``ours`` are kernels."""

    def build(name: str, call: Any) -> Way:
        if isinstance(call, Exception):
            raise call
        return Way(call, choice=(len(name),) if name.startswith("ours") else None)

    made = {name: partial(build, name, call) for name, call in ways.items()}
    return lambda _batch, _precision: Case(
        "layer", ("conv", 1), made, lambda: torch.ones(4, 32, 8, 8).double(), 1, 1
    )


def ones(value: float = 1.0) -> Callable[[], Tensor]:
    return lambda: torch.full((4, 32, 8, 8), value, dtype=torch.float16)


def one_wrong() -> Tensor:
    y = ones()()
    y[3, 31, 7, 7] = 1.05
    return y


def unwritten() -> Callable[[], Tensor]:
    """Writes its output once, and leaves it alone in later runs."""
    kept = ones()()
    return lambda: kept


@pytest.mark.parametrize(
    "wrong",
    [ones(1.01), ones(float("nan")), one_wrong, unwritten()],
    ids=["scaled", "nan", "one element", "unwritten"],
)
def test_a_wrong_kernel_fails_and_does_not_win(wrong: Callable[[], Tensor], bench: Bench) -> None:
    def right() -> Tensor:
        sum(range(100_000))  # so that the wrong one would win
        return ones()()

    kernels._measure(bench, "layer", 4, "fp16", fake(ours=right, ours_wrong=wrong, cudnn=ones()))
    rows = rows_of(bench)
    assert rows["fp16 batch 4 layer ours_wrong"]["status"] == "failed"
    assert "wrong output" in rows["fp16 batch 4 layer ours_wrong"]["error"]
    best = rows[winner_cell("layer", 4, "fp16")]
    assert (best["status"], best["way"], best["against"]) == ("ok", "ours", "cudnn")


def test_a_library_may_refuse_and_a_kernel_may_not(bench: Bench) -> None:
    refusal = RuntimeError("no plan for this\nand more")
    kernels._measure(
        bench, "layer", 4, "fp16", fake(ours=ones(), ours_broken=refusal, cudnn=refusal)
    )
    rows = rows_of(bench)
    assert rows["fp16 batch 4 layer ours_broken"]["status"] == "failed"
    assert rows["fp16 batch 4 layer cudnn"]["status"] == "refused"
    assert rows["fp16 batch 4 layer cudnn"]["error"] == "RuntimeError: no plan for this"
    best = rows[winner_cell("layer", 4, "fp16")]
    assert best["status"] == "ok"
    assert "ratio" not in best


def test_without_a_right_kernel_there_is_no_winner(bench: Bench) -> None:
    kernels._measure(bench, "layer", 4, "fp16", fake(ours=ones(2.0), cudnn=ones()))
    assert rows_of(bench)[winner_cell("layer", 4, "fp16")]["status"] == "failed"


def test_the_network_takes_the_fastest_of_its_very_shape_and_else_the_first() -> None:
    conv, product = ConvShape(64, 128, 4, 56, 56, 1), ProductShape(3136, 64, 128)
    tiles, products = conv_choices(conv), product_choices(product)
    kept = tiles[2]
    row = {"step": "kernels", "status": "ok", "precision": "fp16"}
    chosen = Winners(
        [
            {**row, "shape": ["conv", *conv], "choice": [kept.width, *kept.tile]},
            {**row, "shape": ["product", *product], "choice": list(products[1])},
            {**row, "shape": ["product", *product], "choice": [1, 1, 1, 1, 1], "status": "failed"},
            {"step": "kernels", "status": "ok", "precision": "fp16", "cell": "no winner"},
        ]
    )
    assert chosen.conv(conv, tiles) == kept
    assert chosen.product(product, products) == products[1]
    other = conv._replace(batch=1)
    assert chosen.conv(other, conv_choices(other)) == conv_choices(other)[0]


def test_rows_of_another_device_choose_nothing(bench: Bench) -> None:
    shape = ["conv", 1]
    bench.write("a", shape=shape, choice=[2], precision="fp16")
    assert kernels.winners(bench).kept(("conv", 1)) == (2,)
    bench.name = "another GPU"
    assert kernels.winners(bench).kept(("conv", 1)) is None


def test_a_kernel_is_compiled_without_a_launch() -> None:
    calls: list[Any] = []

    class Kernel:
        def warmup(self, *args: int, grid: tuple[int, ...], **options: int) -> None:
            calls.append((args, grid, options))

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            raise AssertionError(f"launched over {grid}")

    CompileOnly(Kernel())[3,](1, 2, num_warps=4)
    assert calls == [((1, 2), (3,), {"num_warps": 4})]


def test_every_kernel_is_compiled_whatever_becomes_of_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def broken() -> None:
        raise RuntimeError("out of shared memory")

    ways = {
        name: Way(ones(), choice=(1,), compile=partial(compiled.append, name)) for name in "abc"
    }
    ways = {"broken": Way(ones(), choice=(1,), compile=broken), "library": Way(ones()), **ways}
    compile_all(bench, ways)  # a CPU runs other operators
    assert compiled == []
    monkeypatch.setattr(bench, "cuda", True)
    compile_all(bench, ways)
    assert sorted(compiled) == ["a", "b", "c"]


def test_ratios_are_of_medians_of_one_group(bench: Bench) -> None:
    logits = torch.randn(BATCH, SMALL.num_classes)
    vars(bench)["reference"] = logits.double()  # of no network, which takes seconds

    def make(calls: int) -> tuple[Forward, int, str]:

        def run(_images: Tensor) -> Tensor:
            sum(range(1000 * calls))
            return logits.clone()

        return Forward(run, torch.empty(0)), BATCH, "fp32"

    cells = {"quick": partial(make, 1), "slow": partial(make, 30)}
    measure_group(bench, cells, against="slow")
    rows = rows_of(bench)
    medians = {cell: row["median_us"] for cell, row in rows.items()}
    assert rows["quick"]["ratio"] == pytest.approx(medians["slow"] / medians["quick"])
    assert rows["quick"]["ratio"] > 1
    assert (rows["slow"]["ratio"], rows["slow"]["against"]) == (1, "slow")


def test_after_a_kernel_that_took_the_device_the_process_ends_with_its_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_is_lost", lambda: True)
    with pytest.raises(SystemExit) as ended, bench.guarded("layer"), bench.guarded("cell"):
        raise RuntimeError("an illegal memory access")
    assert ended.value.code == DEVICE_LOST
    assert [row["status"] for row in rows_of(bench).values()] == ["failed"]
    assert under_way(bench.cache, "kernels") == ["cell"]


def test_what_is_under_way_is_noted_and_what_ended_is_not(bench: Bench) -> None:
    with bench.guarded("layer"):
        with bench.guarded("cell"):
            assert under_way(bench.cache, "kernels") == ["cell"]
        assert under_way(bench.cache, "kernels") == ["layer"]
    assert under_way(bench.cache, "kernels") == []
    assert json.loads((bench.cache / "under-way-kernels.json").read_text()) == []
