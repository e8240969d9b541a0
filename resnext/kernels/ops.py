"""The kernels as PyTorch operators, which torch.compile, torch.export and AOTInductor see through.

On a CUDA device in float16 or bfloat16 they run the Triton kernels; elsewhere PyTorch's own
operators compute the same. Tensors are N x C x H x W in channels-last.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from . import grouped_conv3x3 as conv
from . import plain, pool
from . import pointwise as product

# By name: PyTorch reads the source of an operator for the kernels that its caches of compiled code
# depend on, and finds names alone, no attributes.
from .grouped_conv3x3 import grouped_conv3x3_kernel
from .pointwise import pointwise_kernel
from .pool import max_pool_kernel

#: Element types that the kernels take.
DTYPES = (torch.float16, torch.bfloat16)


@triton_op("resnext::grouped_conv3x3", mutates_args=())
def grouped_conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, tile: list[int]
) -> Tensor:
    """``relu(conv(x) + bias)``, padded to keep height and width.

    Args:
        x: N x C x H x W.
        weight: groups x 3 x 3 x inputs x outputs of a merged group, of the type of ``x``.
        bias: C values, float32.
        stride: 1 or 2.
        tile: fields of `resnext.kernels.grouped_conv3x3.ConvTile`.
    """
    if not _taken(x):
        return plain.grouped_conv3x3(x, weight, bias, stride)
    height, width = ((size - 1) // stride + 1 for size in x.shape[2:])
    y = empty_output(x, x.shape[1], height, width)
    kernel = wrap_triton(grouped_conv3x3_kernel)
    conv.launch(kernel, _channels_last(x), weight, bias, y, stride, conv.ConvTile(*tile))
    return y


@triton_op("resnext::pointwise", mutates_args=())
def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    tile: list[int],
    shortcut: Tensor | None = None,
    projection: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """``relu(x @ weight + bias + shortcut)``, a 1x1 convolution.

    Args:
        x: N x C x H x W.
        weight: C x outputs, of the type of ``x``.
        bias: values of the outputs, float32; the projection's added.
        tile: fields of `resnext.kernels.pointwise.ProductTile`.
        shortcut: N x outputs x H x W; with ``projection``, the block's input.
        projection: channels of ``shortcut`` x outputs.
        stride: of the projection.
    """
    if not _taken(x):
        return plain.pointwise(x, weight, bias, shortcut, projection, stride)
    y = empty_output(x, weight.shape[1], x.shape[2], x.shape[3])
    product.launch(
        wrap_triton(pointwise_kernel),
        _channels_last(x),
        weight,
        bias,
        y,
        product.ProductTile(*tile),
        shortcut=None if shortcut is None else _channels_last(shortcut),
        projection=projection,
        stride=stride,
    )
    return y


@triton_op("resnext::max_pool", mutates_args=())
def max_pool(x: Tensor, bias: Tensor) -> Tensor:
    """``relu(max_pool(x) + bias)``, 3x3 of stride 2.

    Args:
        x: N x C x H x W.
        bias: C values, float32.
    """
    if not _taken(x):
        return plain.max_pool(x, bias)
    height, width = ((size - 1) // 2 + 1 for size in x.shape[2:])
    y = empty_output(x, x.shape[1], height, width)
    pool.launch(wrap_triton(max_pool_kernel), _channels_last(x), bias, y)
    return y


def empty_output(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An uninitialized result of a kernel over ``x``."""
    # Not torch.empty with a memory format, which Inductor fills before the kernel writes it.
    shape, row = (x.shape[0], channels, height, width), width * channels
    strides = (height * row, 1, row, channels)
    return torch.empty_strided(shape, strides, dtype=x.dtype, device=x.device)


def _taken(x: Tensor) -> bool:
    return x.device.type == "cuda" and x.dtype in DTYPES


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
