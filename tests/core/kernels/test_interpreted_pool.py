from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fakes.interpreted import Interpreted
from kernel_checks import PoolCase, check_pool, named

KERNELS = Interpreted()
DTYPES = (torch.float16, torch.bfloat16)
SIZES = [(1, 1), (1, 9), (9, 1), (7, 5), (13, 9), (16, 15), (2, 2)]
CASES = [
    PoolCase(index % 9 + 1, (8, 16, 24, 64)[index % 4], *size, dtype)
    for index, (dtype, size) in enumerate(itertools.product(DTYPES, SIZES))
]


def test_the_cases_have_every_batch() -> None:
    assert {case.batch for case in CASES} == set(range(1, 10))


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_pool_is_float64_rounded_once(case: PoolCase) -> None:
    check_pool(KERNELS, case)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_pool_of_the_network_is_float64_rounded_once(dtype: torch.dtype) -> None:
    check_pool(KERNELS, PoolCase(2, 64, 112, 112, dtype))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_inf_reach_what_they_reach_in_float64(value: float) -> None:
    def plant(x: Tensor) -> None:
        x[0, 3, 0, 0] = x[1, 5, 4, 4] = x[1, 7, 8, 6] = value

    y = check_pool(KERNELS, PoolCase(2, 8, 9, 7, torch.float16), plant=plant)
    reached = {tuple(place) for place in (~y.isfinite()).nonzero().tolist()}
    assert reached == (set() if value < 0 else {(0, 3, 0, 0), (1, 5, 2, 2), (1, 7, 4, 3)})


def test_a_window_of_minus_inf_is_0_after_the_relu() -> None:
    y = check_pool(
        KERNELS, PoolCase(1, 8, 5, 5, torch.float16), plant=lambda x: x.fill_(float("-inf"))
    )
    assert torch.equal(y, torch.zeros_like(y))
