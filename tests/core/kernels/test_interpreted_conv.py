from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fakes.interpreted import Interpreted
from kernel_checks import ConvCase, check_conv, conv_inputs, first_and_last, named
from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.tiles import ConvShape, conv_choices, widths
from resnext.network.config import variant
from resnext.network.layers import layers

KERNELS = Interpreted()
DTYPES = (torch.float16, torch.bfloat16)
#: Each way to merge groups, and those that need none.
MERGED = [(width, wide) for width in (4, 8, 16, 32, 64) for wide in widths(64, width)]
SIZES = [(1, 1), (13, 9), (1, 9), (9, 1), (15, 15), (7, 5)]
#: Rows, columns and images that divide the sizes, and that do not; with rows copied ahead, too.
TILES = [ConvTile(2, 8, 4, 4, 1), ConvTile(1, 16, 8, 4, 2), ConvTile(4, 4, 5, 4, 2)]


def odd_case(index: int, size: tuple[int, int], stride: int) -> ConvCase:
    width, merged = MERGED[index % len(MERGED)]
    return ConvCase(
        index % 9 + 1,
        merged * (2 if index % 3 != 1 else 1),
        width,
        merged,
        *size,
        stride,
        DTYPES[index % 2],
        TILES[index % len(TILES)],
    )


ODD = [
    odd_case(index, size, stride)
    for index, (stride, size) in enumerate(itertools.product((1, 2), SIZES))
]


def real_shapes(batch: int) -> list[ConvShape]:
    """The grouped convolutions of ResNeXt-50 32x4d."""
    return list(
        dict.fromkeys(
            ConvShape(
                batch,
                layer.outputs,
                layer.inputs // layer.groups,
                *layer.in_size,
                layer.in_size[0] // layer.out_size[0],
            )
            for layer in layers(variant("resnext50_32x4d"))
            if layer.name.endswith(".conv2")
        )
    )


def real_case(shape: ConvShape, dtype: torch.dtype, index: int) -> ConvCase:
    """A shape with one of its choices."""
    choice = conv_choices(shape)[index]
    return ConvCase(
        shape.batch,
        shape.channels,
        shape.width,
        choice.width,
        shape.height,
        shape.columns,
        shape.stride,
        dtype,
        choice.tile,
    )


def test_the_odd_cases_have_every_size_stride_batch_and_way_to_merge() -> None:
    assert {(case.height, case.columns, case.stride) for case in ODD} == {
        (*size, stride) for size, stride in itertools.product(SIZES, (1, 2))
    }
    assert {case.batch for case in ODD} == set(range(1, 10))
    assert {(case.width, case.merged) for case in ODD} == set(MERGED)
    assert {(case.dtype, case.stride) for case in ODD} == set(itertools.product(DTYPES, (1, 2)))


@pytest.mark.parametrize("case", ODD, ids=named)
def test_odd_sizes_and_batches_are_float64_rounded_once(case: ConvCase) -> None:
    check_conv(KERNELS, case)


@pytest.mark.parametrize("shape", real_shapes(2), ids=named)
def test_the_network_s_shapes_are_float64_rounded_once(shape: ConvShape) -> None:
    # A few programs of each: the first, the last and some between.
    case = real_case(shape, DTYPES[shape.stride % 2], 0)
    check_conv(KERNELS, case, chosen=first_and_last(5))


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", real_shapes(1), ids=named)
def test_every_choice_of_the_network_s_shapes_is_float64_rounded_once(shape: ConvShape) -> None:
    for index in range(len(conv_choices(shape))):
        check_conv(KERNELS, real_case(shape, DTYPES[index % 2], index))


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_odd_size_in_every_way_is_float64_rounded_once(
    size: tuple[int, int], stride: int
) -> None:
    ways = itertools.product(MERGED, DTYPES, TILES)
    for index, ((width, merged), dtype, tile) in enumerate(ways):
        case = ConvCase(index % 9 + 1, 2 * merged, width, merged, *size, stride, dtype, tile)
        check_conv(KERNELS, case)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("stride", [1, 2])
def test_nan_and_inf_reach_what_they_reach_in_float64(value: float, stride: int) -> None:
    case = ConvCase(4, 32, 4, 16, 9, 13, stride, torch.float16, ConvTile(2, 16, 9, 4, 1))

    def plant(x: Tensor) -> None:
        for image, row, column in ((1, 0, 0), (2, 4, 6), (3, 8, 12)):
            x[image, 5, row, column] = value

    y = check_conv(KERNELS, case, plant=plant)  # as in float64 with merged groups
    x, weight, bias = conv_inputs(case)
    plant(x)
    narrow = functional.conv2d(x.double(), weight.double(), bias.double(), stride, 1, groups=8)
    # Zeros of merged weights make NaN of Inf, so more of the merged group's outputs may be NaN.
    assert not (narrow.relu().isnan() & ~y.isnan()).any()
    assert not (~narrow.relu().isfinite() & y.isfinite()).any()
    reached = (~y.isfinite()).nonzero()
    assert set(reached[:, 0].tolist()) == {1, 2, 3}
    assert set(reached[:, 1].tolist()) <= set(range(16)), "beyond the merged group"


def test_a_sum_beyond_float16_is_inf_and_not_nan() -> None:
    case = ConvCase(1, 16, 16, 16, 7, 7, 1, torch.float16, ConvTile(1, 16, 7, 4, 1))
    y = check_conv(KERNELS, case, plant=lambda x: x.mul_(6e4).clamp_(-6e4, 6e4))
    assert y.isinf().any()
    assert not y.isnan().any()
