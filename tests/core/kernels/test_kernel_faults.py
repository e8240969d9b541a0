"""Faults planted into the kernels' sources: each is caught by the checks that the kernels pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fakes.interpreted import Fault, Interpreted
from kernel_checks import ConvCase, PoolCase, ProductCase, check_conv, check_pool, check_product
from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.pointwise import ProductTile

F16 = torch.float16
CONV = "grouped_conv3x3"
STRIP = ConvTile(2, 8, 3, 4, 1)
TILE = ProductTile(16, 16, 16, 4, 1)
CONV_CASE = ConvCase(3, 32, 8, 16, 4, 3, 1, F16, STRIP)
#: Rows that the pipeliner copies ahead, not the kernel.
COPIED = CONV_CASE._replace(tile=STRIP._replace(stages=2))


def nan(x: Tensor) -> None:
    x[0, 0, 0, 0] = float("nan")


PRODUCT = ProductCase(2, 24, 24, 3, 5, F16, TILE)
PROJECTION = PRODUCT._replace(shortcut="projection", projected=20, stride=2)
CHECKS: dict[str, Callable[[Interpreted], object]] = {
    "conv": partial(check_conv, case=CONV_CASE),
    "strided conv": partial(check_conv, case=CONV_CASE._replace(stride=2)),
    "conv of copied rows": partial(check_conv, case=COPIED),
    "strided conv of copied rows": partial(check_conv, case=COPIED._replace(stride=2)),
    "conv of nan": partial(check_conv, case=CONV_CASE, plant=nan),
    "product": partial(check_product, case=PRODUCT),
    "product with shortcut": partial(check_product, case=PRODUCT._replace(shortcut="same")),
    "product with projection": partial(check_product, case=PROJECTION),
    "product of nan": partial(check_product, case=PRODUCT, plant=nan),
    "pool": partial(check_pool, case=PoolCase(2, 24, 9, 8, F16)),
    "pool of nan": partial(check_pool, case=PoolCase(1, 8, 5, 5, F16), plant=nan),
}
#: What is planted, the check that catches it, and what the check says.
FAULTS = {
    "sums rounded before the bias": (
        Fault(
            "grouped_conv3x3",
            "current + offset",
            "current.to(y.dtype.element_ty).to(tl.float32) + offset",
            times=2,
        ),
        "conv",
        "not the float64 values rounded once",
    ),
    "sums rounded before the shortcut": (
        Fault(
            "pointwise",
            "if SHORTCUT:\n        sums +=",
            "if SHORTCUT:\n        sums = sums.to(y.dtype.element_ty).to(tl.float32) +",
        ),
        "product with shortcut",
        "not the float64 values rounded once",
    ),
    "left border": (
        Fault("grouped_conv3x3", "left = column * STRIDE - 1", "left = column * STRIDE"),
        "conv",
        "relative error",
    ),
    "columns unmasked on the left": (
        Fault("grouped_conv3x3", "(left >= 0) & (left < width)", "(left < width)"),
        "conv",
        "reads beyond the inputs",
    ),
    "columns unmasked on the right": (
        Fault("grouped_conv3x3", "inside & (left + 2 < width)", "inside & (left > -9)"),
        "conv",
        "reads beyond the inputs",
    ),
    "rows unmasked above": (
        Fault("grouped_conv3x3", "valid & (row >= 0) & (row < height)", "valid & (row < height)"),
        "conv",
        "reads beyond the inputs",
    ),
    "rows unmasked below": (
        Fault("grouped_conv3x3", "valid & (row >= 0) & (row < height)", "valid & (row >= 0)"),
        "conv",
        "reads beyond the inputs",
    ),
    "taps swapped": (
        Fault(
            "grouped_conv3x3",
            "tl.dot(tiles[0], weights[0], sums)",
            "tl.dot(tiles[0], weights[2], sums)",
        ),
        "conv",
        "relative error",
    ),
    "kernel rows swapped": (
        Fault(
            "grouped_conv3x3",
            "following + _taps(zero, tiles, middle)",
            "following + _taps(zero, tiles, bottom)",
        ),
        "conv",
        "relative error",
    ),
    "weights transposed": (
        Fault(
            "grouped_conv3x3",
            "channel[:, None] * GROUP + channel[None, :]\n    top",
            "channel[None, :] * GROUP + channel[:, None]\n    top",
        ),
        "conv",
        "relative error",
    ),
    "weights of the first group": (
        Fault("grouped_conv3x3", "weight += group * 9 * GROUP * GROUP + ", "weight += "),
        "conv",
        "relative error",
    ),
    "bias of the first group": (
        Fault("grouped_conv3x3", "bias + group * GROUP + channel", "bias + channel"),
        "conv",
        "relative error",
    ),
    "no bias": (
        Fault("grouped_conv3x3", "current + offset", "current", times=2),
        "conv",
        "relative error",
    ),
    "NaN lost": (
        Fault(
            "grouped_conv3x3", "tl.where(total < 0, 0.0, total)", "tl.where(total > 0, total, 0.0)"
        ),
        "conv of nan",
        "isnan",
    ),
    "no ReLU": (
        Fault("grouped_conv3x3", "tl.where(total < 0, 0.0, total)", "total"),
        "conv",
        "relative error",
    ),
    "stride's row": (
        Fault("grouped_conv3x3", "tiles = _row(x, 2 * row + 1,", "tiles = _row(x, 2 * row,"),
        "strided conv of copied rows",
        "elements are not the float64 values rounded once",
    ),
    "the next row's sums forgotten": (
        Fault("grouped_conv3x3", "current = following +", "current = zero +"),
        "conv",
        "relative error",
    ),
    "the row": (
        Fault("grouped_conv3x3", "tiles = _row(x, row + 1,", "tiles = _row(x, row,"),
        "conv of copied rows",
        "relative error",
    ),
    "the row ahead": (
        Fault("grouped_conv3x3", "upcoming = _row(x, row + 2,", "upcoming = _row(x, row + 1,"),
        "conv",
        "relative error",
    ),
    "the row ahead never taken": (
        Fault(
            "grouped_conv3x3",
            "            if AHEAD:\n                tiles = upcoming\n        else:",
            "        else:",
        ),
        "conv",
        "relative error",
    ),
    "the strided row ahead": (
        Fault("grouped_conv3x3", "_row(x, 2 * row + 2, end,", "_row(x, 2 * row + 1, end,"),
        "strided conv",
        "not the float64 values rounded once",
    ),
    "a row ahead of the images": (
        Fault("grouped_conv3x3", "end = tl.minimum(height, ", "end = tl.maximum(height, "),
        "conv",
        "reads beyond the inputs",
    ),
    "first image ignored": (
        Fault(
            "grouped_conv3x3",
            "x += first_image.to(tl.int64) * height",
            "x += 0 * first_image.to(tl.int64) * height",
        ),
        "conv",
        "relative error",
    ),
    "images unmasked": (
        Fault("grouped_conv3x3", "valid = first_image + image < images", "valid = image >= 0"),
        "conv",
        "reads beyond the inputs",
    ),
    "rows of the store unmasked": (
        Fault("grouped_conv3x3", "stored & (row < out_height)", "stored & (row >= 0)", times=2),
        "conv",
        "writes beyond the output",
    ),
    "columns of the store unmasked": (
        Fault("grouped_conv3x3", "stored = valid & (column < out_width)", "stored = valid"),
        "conv",
        "writes beyond the output",
    ),
    "a strip missing": (
        Fault("grouped_conv3x3", "triton.cdiv(out_height, tile.rows)", "(out_height // tile.rows)"),
        "conv",
        "elements not written",
    ),
    "an image missing": (
        Fault("grouped_conv3x3", "triton.cdiv(shape[0], tile.images)", "(shape[0] // tile.images)"),
        "conv",
        "elements not written",
    ),
    "projection dropped": (
        Fault("pointwise", "if PROJECTED > 0:", "if PROJECTED > 1000:"),
        "product with projection",
        "relative error",
    ),
    "projection's stride ignored": (
        Fault("pointwise", "if STRIDE > 1:", "if STRIDE > 2:"),
        "product with projection",
        "relative error",
    ),
    "projection's row": (
        Fault("pointwise", "(row % out_height) * STRIDE", "row % out_height"),
        "product with projection",
        "relative error",
    ),
    "projection's column": (
        Fault("pointwise", "(pixel % out_width) * STRIDE", "pixel % out_width"),
        "product with projection",
        "relative error",
    ),
    "projection's image": (
        Fault("pointwise", "row = image * height +", "row = image * out_height +"),
        "product with projection",
        "relative error",
    ),
    "shortcut dropped": (
        Fault("pointwise", "if SHORTCUT:", "if False:"),
        "product with shortcut",
        "relative error",
    ),
    "shortcut twice": (
        Fault("pointwise", "other=0.0).to(tl.float32)", "other=0.0).to(tl.float32) * 2"),
        "product with shortcut",
        "relative error",
    ),
    "product without bias": (
        Fault("pointwise", "sums += tl.load(bias", "sums += 0 * tl.load(bias"),
        "product",
        "relative error",
    ),
    "product without ReLU": (
        Fault("pointwise", "tl.where(sums < 0, 0.0, sums)", "sums"),
        "product",
        "relative error",
    ),
    "product's NaN lost": (
        Fault("pointwise", "tl.where(sums < 0, 0.0, sums)", "tl.where(sums > 0, sums, 0.0)"),
        "product of nan",
        "isnan",
    ),
    "inputs unmasked": (
        Fault("pointwise", "there = start + channel < INPUTS", "there = channel < INPUTS"),
        "product",
        "reads beyond the inputs",
    ),
    "last inputs dropped": (
        Fault("pointwise", "range(0, INPUTS, STEP)", "range(0, INPUTS // STEP * STEP, STEP)"),
        "product",
        "relative error",
    ),
    "outputs unmasked": (
        Fault(
            "pointwise",
            "stored, inside = pixel < pixels, output < OUTPUTS",
            "stored, inside = pixel < pixels, output >= 0",
        ),
        "product",
        "reads beyond the inputs",
    ),
    "pixels unmasked": (
        Fault("pointwise", "stored, inside = pixel < pixels,", "stored, inside = pixel >= 0,"),
        "product",
        "reads beyond the inputs",
    ),
    "pixels missing": (
        Fault("pointwise", "triton.cdiv(pixels, tile.pixels)", "(pixels // tile.pixels)"),
        "product",
        "elements not written",
    ),
    "outputs missing": (
        Fault("pointwise", "* triton.cdiv(outputs, tile.outputs)", "* (outputs // tile.outputs)"),
        "product",
        "elements not written",
    ),
    "weight's step": (
        Fault("pointwise", "weight += STEP * OUTPUTS", "weight += OUTPUTS"),
        "product",
        "relative error",
    ),
    "pool's border": (
        Fault("pool", "pixel // out_width * 2 - 1", "pixel // out_width * 2"),
        "pool",
        "relative error",
    ),
    "pool's left border": (
        Fault("pool", "pixel % out_width * 2 - 1", "pixel % out_width * 2"),
        "pool",
        "relative error",
    ),
    "pool's tap": (
        Fault("pool", "tl.static_range(9)", "tl.static_range(8)"),
        "pool",
        "relative error",
    ),
    "pool's padding is 0": (
        Fault("pool", 'mask=inside, other=float("-inf")', "mask=inside, other=0.0"),
        "pool",
        "relative error",
    ),
    "pool's columns unmasked": (
        Fault("pool", "(column >= 0) & (column < width)", "(column < width)"),
        "pool",
        "reads beyond the inputs",
    ),
    "pool's rows unmasked": (
        Fault("pool", "(row >= 0) & (row < height)", "(row >= 0)"),
        "pool",
        "reads beyond the inputs",
    ),
    "pool's image": (
        Fault("pool", "x += image * height", "x += 0 * image * height"),
        "pool",
        "relative error",
    ),
    "pool without bias": (
        Fault("pool", "best += tl.load(bias", "best += 0 * tl.load(bias"),
        "pool",
        "relative error",
    ),
    "pool without ReLU": (
        Fault("pool", "best = tl.where(best < 0, 0.0, best)", "best = best * 1"),
        "pool",
        "relative error",
    ),
    "pool's NaN lost": (
        Fault("pool", "tl.where(best < 0, 0.0, best)", "tl.where(best > 0, best, 0.0)"),
        "pool of nan",
        "isnan",
    ),
    "pool's store unmasked": (
        Fault("pool", "y.dtype.element_ty), mask=stored)", "y.dtype.element_ty))"),
        "pool",
        "writes beyond the output",
    ),
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_kernels_pass_what_their_faults_fail(check: str) -> None:
    CHECKS[check](Interpreted())


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    fault, check, says = FAULTS[name]
    twins = Interpreted(fault, tmp_path)
    with pytest.raises(AssertionError, match=says):
        CHECKS[check](twins)


def test_each_check_catches_something() -> None:
    assert {check for _, check, _ in FAULTS.values()} == set(CHECKS)
