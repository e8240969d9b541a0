"""Tiles are timed once, the winners kept, and what does not run is passed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.runtime.errors import OutOfResources

from resnext.kernels import ops
from resnext.kernels.tiles import ConvShape, ProductShape, conv_choices, product_choices
from resnext.kernels.tuning import Launch, Tuned, Winners, may_copy_ahead
from resnext.storage import write_cached

CONV = ConvShape(batch=2, channels=32, width=4, height=6, columns=6, stride=2)
PRODUCT = ProductShape(pixels=72, inputs=32, outputs=64)
PROJECTED = ProductShape(pixels=72, inputs=32, outputs=64, projected=16)
ADDED = ProductShape(pixels=72, inputs=32, outputs=64, shortcut=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path))
    return tmp_path


class Race:
    """Says that the launch at ``best`` is the fastest, and runs all."""

    def __init__(self, best: int) -> None:
        self.best, self.counts = best, list[int]()

    def __call__(self, launches: Sequence[Launch]) -> list[float]:
        self.counts.append(len(launches))
        for launch in launches:
            launch()
        return [0.5 if index == self.best else 1.0 for index in range(len(launches))]


def tuned(race: Race, gpu: str = "NVIDIA H100", dtype: torch.dtype = torch.float16) -> Tuned:
    return Tuned(race, dtype, torch.device("cpu"), gpu, str)


@pytest.mark.parametrize(
    ("shape", "choices", "choose"),
    [
        (CONV, conv_choices(CONV), Tuned.conv),
        *((shape, product_choices(shape), Tuned.product) for shape in (PRODUCT, PROJECTED, ADDED)),
    ],
)
def test_the_fastest_wins_and_is_not_timed_again(
    shape: Any, choices: list[Any], choose: Callable[..., Any]
) -> None:
    race = Race(len(choices) - 1)
    assert choose(tuned(race), shape, choices) == choices[-1]
    assert choose(tuned(Race(0)), shape, choices) == choices[-1]  # another process
    assert race.counts == [len(choices)]
    other = Race(0)
    assert choose(tuned(other, "NVIDIA H200"), shape, choices) == choices[0]
    assert choose(tuned(other, dtype=torch.bfloat16), shape, choices) == choices[0]
    assert other.counts == [len(choices)] * 2


@pytest.mark.parametrize("fault", ["damaged", "other kernels", "a tile that is offered no more"])
def test_a_winner_that_holds_no_more_is_timed_again(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = product_choices(PRODUCT)
    tuned(Race(0)).product(PRODUCT, choices)
    if fault == "damaged":
        path = Winners("NVIDIA H100").path
        path.write_bytes(path.read_bytes()[:-9])
    elif fault == "other kernels":
        monkeypatch.setattr(triton, "__version__", "99")
    else:
        choices = choices[1:]
    race = Race(len(choices) - 1)
    assert tuned(race).product(PRODUCT, choices) == choices[-1]
    assert race.counts == [len(choices)]


#: Of all stages and batch sizes of ResNeXt-50.
CONVS = [
    ConvShape(batch, channels, channels // 32, size * stride, size * stride, stride)
    for batch in (1, 8, 64, 256)
    for channels, size in ((128, 56), (256, 28), (512, 14), (1024, 7))
    for stride in (1, 2)
]


@pytest.mark.parametrize(
    ("capability", "allowed"),
    [((8, 0), True), ((9, 0), True), ((10, 0), False), ((10, 3), False), ((12, 0), True)],
)
def test_where_triton_orders_chained_products_wrongly_no_tile_has_stages(
    capability: tuple[int, int], allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert may_copy_ahead(capability) is allowed
    # The untried one, which is taken on every GPU, has none either.
    assert all(conv_choices(shape)[0].tile.stages == 1 for shape in CONVS)
    shape = ConvShape(8, 128, 4, 56, 56, 1)
    choices = conv_choices(shape)
    staged = [index for index, choice in enumerate(choices) if choice.tile.stages > 1]
    race = Race(staged[0])
    device = torch.device("cpu")
    choose = Tuned(race, torch.float16, device, "B200", str, copied_ahead=allowed)
    monkeypatch.setattr(ops, "grouped_conv3x3", lambda x, *_: x)
    assert (choose.conv(shape, choices).tile.stages > 1) is allowed
    assert race.counts == [len(choices) - (0 if allowed else len(staged))]


def test_a_tile_that_does_not_fit_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = product_choices(PRODUCT)
    pointwise = ops.pointwise

    def small(x: Any, weight: Any, bias: Any, tile: list[int], *more: Any) -> Any:
        if tile == list(choices[0]):
            raise OutOfResources(300_000, 232_448, "shared memory")
        return pointwise(x, weight, bias, tile, *more)

    monkeypatch.setattr(ops, "pointwise", small)
    race = Race(0)
    assert tuned(race).product(PRODUCT, choices) == choices[1]
    assert race.counts == [len(choices) - 1]
    said = r"no tile of the kernel for 1x1 pixels 72 .* on this GPU: out of resource: shared memory"
    with pytest.raises(RuntimeError, match=said):
        tuned(race, "small").product(PRODUCT, choices[:1])


@pytest.mark.parametrize(
    ("error", "passed_over"),
    [
        (RuntimeError("PassManager::run failed"), True),  # Triton's, of its compiler
        (RuntimeError("Triton Error [CUDA]: no kernel image is available"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=str,
)
def test_what_is_no_fault_of_a_tile_ends_the_timing(
    error: BaseException, passed_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = product_choices(PRODUCT)
    pointwise = ops.pointwise

    def failing(x: Any, weight: Any, bias: Any, tile: list[int], *more: Any) -> Any:
        if tile == list(choices[0]):
            raise error
        return pointwise(x, weight, bias, tile, *more)

    monkeypatch.setattr(ops, "pointwise", failing)
    if passed_over:
        assert tuned(Race(0)).product(PRODUCT, choices) == choices[1]
    else:
        with pytest.raises(type(error)):
            tuned(Race(0)).product(PRODUCT, choices)


def test_a_known_winner_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[Any, Any]] = [(CONV, Tuned.conv), (PROJECTED, Tuned.product)]
    for shape, choose in shapes:
        choices = conv_choices(shape) if shape is CONV else product_choices(shape)
        choose(tuned(Race(0)), shape, choices)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", None)
            assert choose(tuned(Race(1)), shape, choices) == choices[0]


@pytest.mark.parametrize(
    "stored", [b"[1, 2]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"%s": 7}']
)
def test_whatever_a_file_of_winners_holds_tiles_are_timed(stored: bytes) -> None:
    key = "1x1 pixels 72 inputs 32 outputs 64 projected 0 shortcut False stride 1 float16"
    path, choices = Winners("NVIDIA H100").path, product_choices(PRODUCT)
    write_cached(path, stored.replace(b"%s", key.encode()))
    for _ in range(2):
        assert tuned(Race(1)).product(PRODUCT, choices) == choices[1]
    assert Winners("NVIDIA H100").get(key) == repr(choices[1])


@pytest.mark.parametrize("gpu", ["NVIDIA H100", "a/../b", "\N{SNOWMAN}\n", "", "RTX\x00"])
def test_a_gpu_of_any_name_has_a_file(gpu: str, cache: Path) -> None:
    tuned(Race(0), gpu).product(PRODUCT, product_choices(PRODUCT))
    assert Winners(gpu).path.parent == cache / "kernels"
    assert Winners(gpu).path.is_file()


def test_a_cache_that_cannot_be_written_costs_time_alone(cache: Path) -> None:
    (cache / "kernels").write_text("a file in the place of the folder")
    choices = product_choices(PRODUCT)
    for _ in range(2):
        race = Race(1)
        assert tuned(race).product(PRODUCT, choices) == choices[1]
        assert race.counts == [len(choices)]
