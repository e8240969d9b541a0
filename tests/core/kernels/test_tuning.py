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
from resnext.kernels.tuning import Launch, Tuned, Winners

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
    with pytest.raises(RuntimeError, match="no tile of the kernel for 1x1 pixels 72"):
        tuned(race, "small").product(PRODUCT, choices[:1])


def test_a_cache_that_cannot_be_written_costs_time_alone(cache: Path) -> None:
    (cache / "kernels").write_text("a file in the place of the folder")
    choices = product_choices(PRODUCT)
    for _ in range(2):
        race = Race(1)
        assert tuned(race).product(PRODUCT, choices) == choices[1]
        assert race.counts == [len(choices)]
