"""What the kernels compute, by PyTorch's own operators: on a CPU, and for what the kernels do not
take.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def grouped_conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """``relu(conv(x) + bias)``; arguments as of `resnext.kernels.ops.grouped_conv3x3`."""
    groups, width = weight.shape[0], weight.shape[3]
    unpacked = weight.permute(0, 4, 3, 1, 2).reshape(groups * width, width, 3, 3)
    return functional.conv2d(x, unpacked, bias.to(x.dtype), stride, 1, groups=groups).relu()


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None = None,
    projection: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """``relu(x @ weight + bias + shortcut)``; arguments as of `resnext.kernels.ops.pointwise`."""
    y = functional.conv2d(x, weight.t()[:, :, None, None], bias.to(x.dtype))
    if projection is not None:
        assert shortcut is not None  # what is projected
        y = y + functional.conv2d(shortcut, projection.t()[:, :, None, None], stride=stride)
    elif shortcut is not None:
        y = y + shortcut
    return y.relu()


def max_pool(x: Tensor, bias: Tensor) -> Tensor:
    """``relu(max_pool(x) + bias)``; arguments as of `resnext.kernels.ops.max_pool`."""
    return (functional.max_pool2d(x, 3, 2, 1) + bias.to(x.dtype)[:, None, None]).relu()
