from __future__ import annotations

import itertools

import pytest
import torch

from fakes.interpreted import Interpreted
from kernel_checks import ProductCase, check_product, first_and_last, named
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ProductShape, product_choices
from resnext.network.config import variant
from resnext.network.layers import layers

KERNELS = Interpreted()
DTYPES = (torch.float16, torch.bfloat16)
TILE = ProductTile(32, 32, 32, 4, 1)
#: Inputs, outputs, height and columns: of a tile's multiples, and not.
SIZES = [(32, 64, 8, 8), (72, 80, 7, 5), (112, 72, 1, 1), (24, 8, 13, 9), (16, 33, 1, 31)]
#: Kind of shortcut, channels of the projected input, stride.
SHORTCUTS = [("none", 0, 1), ("same", 0, 1), ("projection", 40, 1), ("projection", 64, 2)]
ODD = [
    ProductCase(index % 9 + 1, *size, DTYPES[(index + index // 4) % 2], TILE, *more)
    for index, (size, more) in enumerate(itertools.product(SIZES, SHORTCUTS))
]


def real_cases(batch: int, dtype: torch.dtype) -> list[tuple[ProductCase, list[ProductTile]]]:
    """The 1x1s of ResNeXt-50 32x4d, once each, with their choices."""
    cases: dict[ProductCase, list[ProductTile]] = {}
    found = {layer.name: layer for layer in layers(variant("resnext50_32x4d"))}
    for name, layer in found.items():
        block, _, conv = name.rpartition(".")
        if conv not in ("conv1", "conv3") or not block:
            continue
        kind, projected, stride = "none", 0, 1
        if conv == "conv3":
            kind = "same"
            if (down := found.get(f"{block}.downsample.0")) is not None:
                kind, projected = "projection", down.inputs
                stride = down.in_size[0] // down.out_size[0]
        pixels = batch * layer.out_size[0] * layer.out_size[1]
        shape = ProductShape(pixels, layer.inputs, layer.outputs, projected, kind == "same")
        tiles = product_choices(shape)
        height, columns = layer.out_size
        case = ProductCase(
            batch,
            layer.inputs,
            layer.outputs,
            height,
            columns,
            dtype,
            tiles[0],
            kind,
            projected,
            stride,
        )
        cases[case] = tiles
    return list(cases.items())


def test_the_odd_cases_have_every_batch_and_shortcut() -> None:
    assert {case.batch for case in ODD} == set(range(1, 10))
    assert {(case.dtype, case.shortcut) for case in ODD} == {
        (dtype, kind) for dtype in DTYPES for kind, *_ in SHORTCUTS
    }


@pytest.mark.parametrize("case", ODD, ids=named)
def test_odd_products_are_float64_rounded_once(case: ProductCase) -> None:
    check_product(KERNELS, case)


@pytest.mark.parametrize("case", [case for case, _ in real_cases(1, torch.float16)], ids=named)
def test_the_network_s_products_are_float64_rounded_once(case: ProductCase) -> None:
    check_product(KERNELS, case, chosen=first_and_last(2))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("case", "tiles"),
    [pytest.param(*each, id=named(each[0])) for each in real_cases(1, torch.float16)],
)
def test_every_choice_of_the_network_s_products_is_float64_rounded_once(
    case: ProductCase, tiles: list[ProductTile]
) -> None:
    for index, tile in enumerate(tiles):
        check_product(KERNELS, case._replace(tile=tile, dtype=DTYPES[index % 2]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=str)
def test_nan_and_inf_of_an_input_reach_what_they_reach_in_float64(
    value: float, shortcut: tuple[str, int, int]
) -> None:
    case = ProductCase(2, 24, 40, 3, 5, torch.float16, TILE, *shortcut)
    # Of the shortcut, if there is one; of channel 3 of one pixel.
    y = check_product(KERNELS, case, plant=lambda x: x[1, 3, 2, 4].fill_(value))
    reached = (~y.isfinite()).nonzero()
    places = (1, 2, 4) if shortcut[2] == 1 else (1, 1, 2)
    lost = shortcut[0] == "same" and value < 0  # the ReLU makes 0 of -Inf
    assert {(image, row, column) for image, _, row, column in reached.tolist()} == (
        set() if lost else {places}
    )
