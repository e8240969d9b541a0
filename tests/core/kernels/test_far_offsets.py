"""Tensors of more than 2**31 values: the addresses of the last programs, without the memory.

Nothing is read or written. The interpreter's integers wrap at 32 bits, as a GPU's do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fakes.interpreted import Accesses, Fault, Interpreted, Nowhere, Programs, interpreting
from kernel_checks import inside
from resnext.kernels.tiles import ConvShape, ProductShape, conv_choices, product_choices

BATCH, CHANNELS, SIDE = 8192, 256, 56
KINDS = ("conv", "strided conv", "product", "shortcut", "projection", "pool")


class Reached(NamedTuple):
    """What the last program of a launch reads and writes."""

    accesses: Accesses
    inputs: list[Nowhere]
    y: Nowhere


def images(address: int, channels: int, side: int) -> Nowhere:
    return Nowhere((BATCH, channels, side, side), address << 40)


def matrix(address: int, *shape: int) -> Nowhere:
    return Nowhere(shape, address << 40)


def last(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tuple(size - 1 for size in grid)]


def reached(twins: Interpreted, kind: str) -> Reached:
    """Of the kernel and its first tile at a large batch."""
    accesses, y = Accesses(dry=True), images(1, CHANNELS, SIDE)
    bias = Nowhere((CHANNELS,), 2 << 40, torch.float32)
    with interpreting(), accesses.recorded():
        if kind == "pool":
            inputs = [images(3, CHANNELS, 2 * SIDE), bias]
            twins.pool.launch(Programs(twins.pool.max_pool_kernel, last), *inputs, y)
        elif "conv" in kind:
            stride = 2 if kind == "strided conv" else 1
            side = stride * SIDE
            choice = conv_choices(ConvShape(BATCH, CHANNELS, 8, side, side, stride))[0]
            width = choice.width
            inputs = [
                images(3, CHANNELS, side),
                matrix(4, CHANNELS // width, 3, 3, width, width),
                bias,
            ]
            kernel = Programs(twins.conv.grouped_conv3x3_kernel, last)
            twins.conv.launch(kernel, *inputs, y, stride, choice.tile)
        else:
            inputs = [images(3, 64, SIDE), matrix(4, 64, CHANNELS), bias]
            shortcut = projection = None
            if kind == "shortcut":
                shortcut = images(5, CHANNELS, SIDE)
            elif kind == "projection":
                shortcut, projection = images(5, 128, 2 * SIDE), matrix(6, 128, CHANNELS)
            tile = product_choices(ProductShape(BATCH * SIDE**2, 64, CHANNELS))[0]
            twins.product.launch(
                Programs(twins.product.pointwise_kernel, last),
                *inputs,
                y,
                tile,
                shortcut=shortcut,
                projection=projection,
                stride=1 if projection is None else 2,
            )
            inputs += [value for value in (shortcut, projection) if value is not None]
    return Reached(accesses, inputs, y)


def check(twins: Interpreted, kind: str) -> None:
    """The last program ends with the last value of each image tensor, and stays inside."""
    accesses, inputs, y = reached(twins, kind)
    loads, stores = np.concatenate(accesses.loads), np.concatenate(accesses.stores)
    assert inside(stores, y).all(), "writes elsewhere"
    assert np.any([inside(loads, tensor) for tensor in inputs], axis=0).all(), "reads elsewhere"
    assert int(stores.max()) == y.data_ptr() + 2 * (y.numel() - 1), "not the last value"
    for tensor in inputs:
        if tensor.numel() > 2**31:
            first = int(loads[inside(loads, tensor)].min()) - tensor.data_ptr()
            assert first > 2 * (tensor.numel() - 2**31), "not the last images"


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_program_of_a_large_batch_reaches_the_last_values(kind: str) -> None:
    check(Interpreted(), kind)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (
            "conv",
            Fault("grouped_conv3x3", "x += first_image.to(tl.int64) *", "x += first_image *"),
        ),
        (
            "strided conv",
            Fault("grouped_conv3x3", "y += first_image.to(tl.int64) *", "y += first_image *"),
        ),
        ("product", Fault("pointwise", "(pixel.to(tl.int64) * OUTPUTS)", "(pixel * OUTPUTS)")),
        ("projection", Fault("pointwise", "row.to(tl.int64) * width", "row * width")),
        ("shortcut", Fault("pointwise", "place = (pixel.to(tl.int64)", "place = (pixel")),
        ("pool", Fault("pool", "tl.program_id(1).to(tl.int64)", "tl.program_id(1)")),
    ],
)
def test_offsets_of_32_bits_are_caught(kind: str, fault: Fault, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"elsewhere|not the last"):
        check(Interpreted(fault, tmp_path), kind)
