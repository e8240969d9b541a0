from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
import triton
from torch import Tensor
from triton import language
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder
from triton.runtime.jit import JITFunction

from fakes.interpreted import (
    Interpreted,
    bfloat16_from_float32,
    float32_from_bfloat16,
    interpreting,
)
from resnext.kernels import grouped_conv3x3, pointwise, pool


def test_twins_are_interpreted_and_the_modules_are_not() -> None:
    twins = Interpreted()
    assert not triton.knobs.runtime.interpret
    for module, twin in (
        (grouped_conv3x3, twins.conv),
        (pointwise, twins.product),
        (pool, twins.pool),
    ):
        kernels = [name for name in vars(module) if name.endswith("_kernel")]
        assert len(kernels) == 1
        assert isinstance(vars(module)[kernels[0]], JITFunction)
        assert isinstance(vars(twin)[kernels[0]], InterpretedFunction)
        assert importlib.import_module(module.__name__) is module


def test_a_launch_leaves_the_language_and_the_interpreter_as_they_were() -> None:
    def state() -> list[Any]:
        named = [vars(language)[name] for name in ("load", "dot", "where", "static_range")]
        parts = [vars(InterpreterBuilder)[name] for name in ("create_dot", "cast_impl")]
        return [*named, *parts, vars(InterpretedFunction)["__call__"]]

    before = state()
    values = torch.ones(1, 16, 3, 3, dtype=torch.bfloat16)
    Interpreted().max_pool(values, torch.zeros(16))
    assert all(old is new for old, new in zip(before, state(), strict=True))


def product(x: Tensor, weight: Tensor) -> Tensor:
    twins = Interpreted()
    y = torch.full((1, 16, 1, 16), float("nan"), dtype=x.dtype)
    y = y.contiguous(memory_format=torch.channels_last)
    twins.product.launch(
        twins.product.pointwise_kernel,
        x.contiguous(memory_format=torch.channels_last),
        weight,
        torch.zeros(16),
        y,
        twins.product.ProductTile(16, 16, 16, 4, 1),
    )
    return y


def test_a_product_of_known_bfloat16_numbers_is_theirs() -> None:
    # 3 * 0.5 sixteen times, and 1.0078125 (the number after 1), which is no float16.
    x = torch.full((1, 16, 1, 16), 3.0, dtype=torch.bfloat16)
    weight = torch.full((16, 16), 0.5, dtype=torch.bfloat16)
    weight[:, 0] = 0.0
    weight[0, 0] = 1 + 2**-7
    with interpreting():
        y = product(x, weight)
    assert set(y[0, 0].flatten().tolist()) == {3.03125}  # 3.0234375, to even
    assert set(y[0, 1:].flatten().tolist()) == {24.0}


def test_the_interpreter_s_own_product_of_bfloat16_is_wrong() -> None:
    # If this fails, `interpreting` is not needed any more.
    x = torch.full((1, 16, 1, 16), 3.0, dtype=torch.bfloat16)
    y = product(x, torch.full((16, 16), 0.5, dtype=torch.bfloat16))
    assert set(y.flatten().tolist()) != {24.0}


@pytest.mark.parametrize(
    "values",
    [
        [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.0234375],
        [float("inf"), float("-inf"), 3.4e38, 3.3e38, 1e-40, -1e-45],
    ],
)
def test_bfloat16_is_rounded_as_pytorch_does(values: list[float]) -> None:
    tensor = torch.tensor(values)
    rounded = tensor.to(torch.bfloat16)
    bits = bfloat16_from_float32(tensor.numpy())
    assert np.array_equal(bits.view(np.int16), rounded.view(torch.int16).numpy())
    assert np.array_equal(float32_from_bfloat16(bits), rounded.float().numpy())


def test_a_nan_of_any_payload_remains_nan_in_bfloat16() -> None:
    values = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(float32_from_bfloat16(bfloat16_from_float32(values))).all()
