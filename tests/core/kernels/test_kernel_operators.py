"""What torch.compile and torch.export are told about the operators, without a GPU: tensors that
claim to be on one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fakes.interpreted import Interpreted, interpreting
from kernel_checks import GATES
from resnext.kernels import ops, plain
from resnext.kernels.ops import DTYPES

#: Makes a tensor of a shape; float32 if asked for.
Make = Callable[..., Tensor]
CONV_TILE, PRODUCT_TILE = [1, 16, 4, 4, 1], [64, 32, 32, 4, 4]


def conv(make: Make, operators: Any, stride: int, size: tuple[int, int]) -> Tensor:
    more = [] if operators is plain else [CONV_TILE]
    x, weight, bias = make(2, 64, *size), make(2, 3, 3, 32, 32), make(64, exact=True)
    y: Tensor = operators.grouped_conv3x3(x, weight, bias, stride, *more)
    return y


def product(make: Make, operators: Any, kind: str) -> Tensor:
    more: list[Any] = [] if operators is plain else [PRODUCT_TILE]
    if kind == "shortcut":
        more += [make(2, 72, 5, 7)]
    elif kind == "projection":
        more += [make(2, 40, 9, 13), make(40, 72), 2]
    y: Tensor = operators.pointwise(make(2, 48, 5, 7), make(48, 72), make(72, exact=True), *more)
    return y


def pool(make: Make, operators: Any, size: tuple[int, int]) -> Tensor:
    y: Tensor = operators.max_pool(make(2, 64, *size), make(64, exact=True))
    return y


CASES: dict[str, Callable[[Make, Any], Tensor]] = {
    "conv": lambda make, operators: conv(make, operators, 1, (9, 13)),
    "conv of one pixel": lambda make, operators: conv(make, operators, 1, (1, 1)),
    "strided conv": lambda make, operators: conv(make, operators, 2, (9, 12)),
    "product": lambda make, operators: product(make, operators, "none"),
    "product with shortcut": lambda make, operators: product(make, operators, "shortcut"),
    "product with projection": lambda make, operators: product(make, operators, "projection"),
    "pool": lambda make, operators: pool(make, operators, (9, 12)),
    "pool of one pixel": lambda make, operators: pool(make, operators, (1, 1)),
}
every_case = pytest.mark.parametrize("case", CASES)


def on_gpu(mode: FakeTensorMode, dtype: torch.dtype) -> Make:
    """Makes tensors on a GPU that is not there."""

    def make(*shape: int, exact: bool = False) -> Tensor:
        values = torch.empty(shape, dtype=torch.float32 if exact else dtype, device="meta")
        if len(shape) == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        fake: Tensor = FakeTensor(mode, values, torch.device("cuda:0"))
        return fake

    return make


def seeded(dtype: torch.dtype, memory_format: torch.memory_format) -> Make:
    """Makes random tensors."""

    def make(*shape: int, exact: bool = False) -> Tensor:
        generator = torch.Generator().manual_seed(sum(shape))
        values = torch.randn(shape, generator=generator).to(torch.float32 if exact else dtype)
        return values.contiguous(memory_format=memory_format) if len(shape) == 4 else values

    return make


def misplaced(x: Tensor) -> list[int]:
    """Dimensions of ``x`` that do not lie as the kernels assume: N x H x W x C, dense."""
    _, channels, height, width = x.shape
    dense = (height * width * channels, 1, width * channels, channels)
    pairs = enumerate(zip(x.shape, x.stride(), dense, strict=True))
    return [axis for axis, (size, stride, assumed) in pairs if size > 1 and stride != assumed]


@pytest.mark.parametrize("odd", [0, 1, 7])
def test_dimensions_of_one_may_have_any_stride_and_no_other_may(odd: int) -> None:
    for shape in itertools.product((1, 2), (1, 16), (1, 3), (1, 3)):
        dense = torch.arange(math.prod(shape)).view(shape)
        for given in (dense, dense.contiguous(memory_format=torch.channels_last)):
            sizes = zip(shape, given.stride(), strict=True)
            x = given.as_strided(shape, [odd if size == 1 else stride for size, stride in sizes])
            taken = ops._channels_last(x)
            assert misplaced(taken) == []
            assert torch.equal(taken, dense)
    assert misplaced(torch.zeros(2, 16, 3, 3)) == [1, 2, 3]  # the check sees PyTorch's own layout


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_result_on_a_gpu_is_like_the_plain_one_in_channels_last(
    case: str, dtype: torch.dtype
) -> None:
    with FakeTensorMode() as mode:
        y = CASES[case](on_gpu(mode, dtype), ops)
    expected = CASES[case](seeded(dtype, torch.channels_last), plain)
    assert (y.shape, y.dtype, y.device) == (expected.shape, dtype, torch.device("cuda:0"))
    assert y.stride() == torch.empty(y.shape, memory_format=torch.channels_last).stride()


@every_case
def test_the_operators_launch_the_kernels_for_any_layout(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = Interpreted()
    kernels = {**vars(twins.conv), **vars(twins.product), **vars(twins.pool)}
    launched = []

    def interpreted(kernel: Any) -> Any:
        launched.append(kernel.__name__)
        return kernels[kernel.__name__]

    monkeypatch.setattr(ops, "_taken", lambda _: True)
    monkeypatch.setattr(ops, "wrap_triton", interpreted)
    make = seeded(torch.float16, torch.contiguous_format)
    with interpreting():
        y = CASES[case](make, ops)
    exact = CASES[case](lambda *shape, exact=False: make(*shape, exact=exact).double(), plain)
    assert len(launched) == 1
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y.double() - exact).norm() < GATES[torch.float16] * exact.norm()


@pytest.mark.parametrize(
    ("dtype", "device", "taken"),
    [
        (torch.float16, "cuda:0", True),
        (torch.bfloat16, "cuda:0", True),
        (torch.float32, "cuda:0", False),
        (torch.float16, "cpu", False),
    ],
)
def test_the_kernels_take_two_bytes_on_a_gpu(dtype: torch.dtype, device: str, taken: bool) -> None:
    with FakeTensorMode() as mode:
        meta = torch.empty(1, dtype=dtype, device="meta")
        assert ops._taken(FakeTensor(mode, meta, torch.device(device))) is taken


@pytest.mark.parametrize("case", ["strided conv", "product with projection", "pool"])
def test_pytorch_s_own_check_of_operators_passes(case: str) -> None:
    calls: list[tuple[Any, tuple[Any, ...]]] = []

    class Noted:
        def __getattr__(self, name: str) -> Any:
            def note(*args: Any) -> Tensor:
                calls.append((vars(torch.ops.resnext)[name].default, args))
                return torch.empty(0)

            return note

    CASES[case](seeded(torch.float32, torch.channels_last), Noted())
    operator, args = calls[0]
    found = torch.library.opcheck(operator, args)
    assert set(found.values()) == {"SUCCESS"}
