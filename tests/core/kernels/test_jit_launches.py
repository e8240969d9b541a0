"""Triton's own launch of the kernels, as PyTorch's operators call it, up to the driver: that one is
a stand-in, and the tensors lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch._library.triton import get_triton_kernels_for_op

from fakes.cuda_tensors import Driver
from resnext.kernels import grouped_conv3x3, ops, pointwise, pool
from resnext.kernels.compiling import CompileOnly, compile_all
from resnext.kernels.pointwise import ProductTile

STREAM = 77
CONV_TILE, PRODUCT_TILE = [1, 16, 4, 2, 1], [16, 16, 16, 1, 1]
KERNELS = {
    "grouped_conv3x3": grouped_conv3x3.grouped_conv3x3_kernel,
    "pointwise": pointwise.pointwise_kernel,
    "max_pool": pool.max_pool_kernel,
}


class Gpu(Driver):
    """What Triton asks of a driver, and what it launches.

    Attributes:
        launched: grid, stream and arguments of each launch.
    """

    def __init__(self) -> None:
        self.launched: list[tuple[tuple[int, ...], int, tuple[Any, ...]]] = []
        self.loaded: list[str] = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"max_shared_mem": 232_448}, load_binary=self._load
        )

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, _: int) -> int:
        """PyTorch's current one."""
        return STREAM

    def launcher_cls(self, _source: Any, _metadata: Any) -> Any:
        """Notes what is launched."""

        def launch(x: int, y: int, z: int, stream: int, *more: Any) -> None:
            self.launched.append(((x, y, z), stream, more[5:]))

        return launch

    def _load(self, name: str, *_: Any) -> tuple[Any, ...]:
        self.loaded.append(name)
        return object(), object(), 32, 0, 1024


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gpu]:
    driver = Gpu()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setattr(ops, "_taken", lambda _: True)
    for kernel in KERNELS.values():
        kernel.device_caches.clear()
    yield driver
    for kernel in KERNELS.values():
        kernel.device_caches.clear()


def images(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float16).contiguous(memory_format=torch.channels_last)


def weights(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float16)


def conv(x: Tensor) -> Tensor:
    y: Tensor = ops.grouped_conv3x3(x, weights(1, 3, 3, 16, 16), torch.zeros(16), 1, CONV_TILE)
    return y


def product(x: Tensor) -> Tensor:
    y: Tensor = ops.pointwise(x, weights(16, 32), torch.zeros(32), PRODUCT_TILE)
    return y


def test_other_sizes_and_images_of_inference_launch_the_same_code(gpu: Gpu) -> None:
    with torch.inference_mode():  # as sessions call them
        y = conv(images(3, 16, 9, 17))
        conv(images(1, 16, 1, 1))  # Triton makes constants of 1, unless told not to
        conv(images(16, 16, 32, 16))
    assert y.is_inference()
    assert gpu.loaded == ["grouped_conv3x3_kernel"]
    grids, streams, arguments = zip(*gpu.launched, strict=True)
    assert grids == ((3 * 2 * 3, 1, 1), (1, 1, 1), (16 * 8, 1, 1))
    assert set(streams) == {STREAM}
    assert [values[4:9] for values in arguments] == [
        (3, 9, 17, 9, 17), (1, 1, 1, 1, 1), (16, 32, 16, 32, 16)
    ]  # fmt: skip
    assert arguments[0][3] is y or arguments[0][3].data_ptr() == y.data_ptr()


def test_what_was_compiled_ahead_is_what_is_launched(gpu: Gpu, tmp_path: Path) -> None:
    def compiled() -> int:
        return len(list(tmp_path.glob("*/*.cubin")))

    x, weight, bias = images(2, 16, 5, 5), weights(16, 32), torch.zeros(32)
    # As the tuning does: the output has no memory.
    y, tile = torch.empty((2, 32, 5, 5), dtype=x.dtype, device="meta"), ProductTile(*PRODUCT_TILE)
    kernel = CompileOnly(pointwise.pointwise_kernel)
    compile_all([lambda: pointwise.launch(kernel, x, weight, bias, y, tile)])
    assert (compiled(), gpu.launched) == (1, [])
    product(x)
    assert (compiled(), len(gpu.launched)) == (1, 1)
    product(
        torch.zeros(2 * 16 * 25 + 1, dtype=torch.float16)[1:].view(2, 5, 5, 16).permute(0, 3, 1, 2)
    )
    assert (compiled(), len(gpu.launched)) == (2, 2)  # not aligned to 16 bytes: slower loads


@pytest.mark.parametrize("name", KERNELS)
def test_compiled_code_in_pytorch_s_caches_depends_on_the_kernel(name: str) -> None:
    assert get_triton_kernels_for_op(f"resnext::{name}") == [KERNELS[name]]
