"""Checks of interpreted kernels against float64 of the same rounded inputs.

A result has to be the float64 result rounded once, each element written once and none beyond, and
nothing read but the inputs. Inputs lie amid NaN, outputs are NaN before they are written.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fakes.interpreted import Accesses, Interpreted, Nowhere, Programs, interpreting
from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.pointwise import ProductTile

#: Largest relative error of a result's norm. Measured: 2.0e-4 to 2.3e-4, and 1.6e-3 to 1.8e-3.
GATES = {torch.float16: 3e-4, torch.bfloat16: 2.4e-3}
#: Results with fewer values than this may round up or down by chance.
_FEW = 256
#: Half the distance of neighboring numbers, relative, and at the least.
_HALF = {torch.float16: (2**-11, 2**-25), torch.bfloat16: (2**-8, 2**-134)}
#: Error of the sums in float32, relative to the sum of absolute values. Measured: 2**-26.
_SUMS = 2**-22
#: Elements before and after each tensor.
_GUARD = 1 << 15
_OUTSIDE = -7.0

#: Chooses programs of a grid; None runs all.
Chosen = Callable[[tuple[int, ...]], list[tuple[int, ...]]]


class ConvCase(NamedTuple):
    """A grouped 3x3: ``width`` channels a group, merged to ``merged``."""

    batch: int
    channels: int
    width: int
    merged: int
    height: int
    columns: int
    stride: int
    dtype: torch.dtype
    tile: ConvTile


class ProductCase(NamedTuple):
    """A 1x1: ``shortcut`` is "none", "same", or "projection" from ``projected`` channels."""

    batch: int
    inputs: int
    outputs: int
    height: int
    columns: int
    dtype: torch.dtype
    tile: ProductTile
    shortcut: str = "none"
    projected: int = 0
    stride: int = 1


class PoolCase(NamedTuple):
    """The stem's pool of ``height`` x ``columns``."""

    batch: int
    channels: int
    height: int
    columns: int
    dtype: torch.dtype


def check_conv(
    kernels: Interpreted,
    case: ConvCase,
    *,
    plant: Callable[[Tensor], object] | None = None,
    chosen: Chosen | None = None,
) -> Tensor:
    """The output of the kernel, checked.

    Args:
        kernels: whose convolution runs.
        case: its shape, type and tile.
        plant: changes the input.
        chosen: programs that run.
    """
    x, narrow, bias = conv_inputs(case)
    if plant is not None:
        plant(x)
    weight = merged_weight(narrow, case.merged)
    y = Output(case.batch, case.channels, *_strided(case, case.stride), case.dtype)

    def launch() -> Sequence[Tensor]:
        inputs = guarded(x), guarded(packed(weight)), guarded(bias)
        kernel: Any = kernels.conv.grouped_conv3x3_kernel
        kernel = kernel if chosen is None else Programs(kernel, chosen)
        kernels.conv.launch(kernel, *inputs, y.values, case.stride, case.tile)
        return inputs

    def reference(change: Callable[[Tensor], Tensor]) -> Tensor:
        return functional.conv2d(
            change(x.double()),
            change(weight.double()),
            change(bias.double()),
            case.stride,
            1,
            groups=case.channels // case.merged,
        )

    y.check(launch, reference, whole=chosen is None)
    return y.values


def check_product(
    kernels: Interpreted,
    case: ProductCase,
    *,
    plant: Callable[[Tensor], object] | None = None,
    chosen: Chosen | None = None,
) -> Tensor:
    """The output of the kernel, checked; arguments as of `check_conv`."""
    made = Seeded(case)
    shape = case.batch, case.outputs, case.height, case.columns
    x = made.values(case.batch, case.inputs, case.height, case.columns)
    weight = made.values(case.inputs, case.outputs) / case.inputs**0.5
    bias = made.values(case.outputs, dtype=torch.float32)
    shortcut = projection = None
    if case.shortcut == "same":
        shortcut = made.values(*shape)
    elif case.shortcut == "projection":
        # The largest input that the stride leaves at the output's size.
        sides = [size * case.stride for size in (case.height, case.columns)]
        shortcut = made.values(case.batch, case.projected, *sides)
        projection = made.values(case.projected, case.outputs) / case.projected**0.5
    if plant is not None:
        plant(x if shortcut is None else shortcut)
    y = Output(*shape, case.dtype)

    def launch() -> Sequence[Tensor]:
        inputs = guarded(x), guarded(weight), guarded(bias)
        others = [None if value is None else guarded(value) for value in (shortcut, projection)]
        kernel: Any = kernels.product.pointwise_kernel
        kernel = kernel if chosen is None else Programs(kernel, chosen)
        kernels.product.launch(
            kernel,
            *inputs,
            y.values,
            case.tile,
            shortcut=others[0],
            projection=others[1],
            stride=case.stride,
        )
        return [*inputs, *(value for value in others if value is not None)]

    def reference(change: Callable[[Tensor], Tensor]) -> Tensor:
        sums = _product(change(x.double()), change(weight.double()))
        sums += change(bias.double())[:, None, None]
        if projection is not None:
            assert shortcut is not None
            strided = shortcut[:, :, :: case.stride, :: case.stride]
            sums += _product(change(strided.double()), change(projection.double()))
        elif shortcut is not None:
            sums += change(shortcut.double())
        return sums

    y.check(launch, reference, whole=chosen is None)
    return y.values


def check_pool(
    kernels: Interpreted, case: PoolCase, *, plant: Callable[[Tensor], object] | None = None
) -> Tensor:
    """The output of the kernel, checked; arguments as of `check_conv`."""
    made = Seeded(case)
    x = made.values(case.batch, case.channels, case.height, case.columns)
    bias = made.values(case.channels, dtype=torch.float32)
    if plant is not None:
        plant(x)
    y = Output(case.batch, case.channels, *_strided(case, 2), case.dtype)

    def launch() -> Sequence[Tensor]:
        inputs = guarded(x), guarded(bias)
        kernels.pool.launch(kernels.pool.max_pool_kernel, *inputs, y.values)
        return inputs

    def reference(change: Callable[[Tensor], Tensor]) -> Tensor:
        pooled = functional.max_pool2d(change(x.double()), 3, 2, 1)
        return pooled + change(bias.double())[:, None, None]

    y.check(launch, reference)
    return y.values


class Seeded:
    """Normal values, determined by the case."""

    def __init__(self, case: ConvCase | ProductCase | PoolCase) -> None:
        self._generator = torch.Generator().manual_seed(hash_of(case))
        self._dtype = case.dtype

    def values(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Values of ``shape``."""
        return torch.randn(shape, generator=self._generator).to(dtype or self._dtype)


class Output:
    """A channels-last output of N x C x H x W, NaN so far, amid other values."""

    def __init__(self, *shape_and_dtype: Any) -> None:
        *shape, dtype = shape_and_dtype
        self._around = _amid(shape, dtype, _OUTSIDE)
        self.values = _inside(self._around, shape).fill_(float("nan"))

    def check(
        self,
        launch: Callable[[], Sequence[Tensor]],
        reference: Callable[[Callable[[Tensor], Tensor]], Tensor],
        *,
        whole: bool = True,
    ) -> None:
        """Launch and compare.

        Args:
            launch: writes the output, and returns the inputs.
            reference: the sums before the ReLU in float64, of inputs changed by a function.
            whole: whether each element must be written.
        """
        accesses = Accesses()
        with interpreting(), accesses.recorded():
            inputs = launch()
        self._check_accesses(accesses, inputs, whole=whole)
        outside = self._around.clone()
        _inside(outside, self.values.shape).fill_(_OUTSIDE)
        assert torch.all(outside == _OUTSIDE), "wrote beyond the output"
        written = self.values.double()
        exact = reference(lambda value: value)
        if not whole:
            places = (np.concatenate(accesses.stores) - self.values.data_ptr()) // 2
            flat = torch.from_numpy(places.astype(np.int64))
            written, exact = (_flat(value)[flat] for value in (written, exact))
        error = relative_error(written, exact.relu(), self.values.dtype)
        few = written.count_nonzero() < _FEW
        assert few or error < GATES[self.values.dtype], f"relative error {error:.1e}"
        size = reference(torch.abs)
        size = size if whole else _flat(size)[flat]
        _check_rounded_once(written, exact.relu(), size, self.values.dtype)

    def _check_accesses(self, accesses: Accesses, inputs: Sequence[Tensor], *, whole: bool) -> None:
        loads, stores = np.concatenate(accesses.loads), np.concatenate(accesses.stores)
        beyond = ~np.any([inside(loads, tensor) for tensor in inputs], axis=0)
        assert not beyond.any(), f"{beyond.sum()} reads beyond the inputs"
        beyond = ~inside(stores, self.values)
        assert not beyond.any(), f"{beyond.sum()} writes beyond the output"
        times = np.bincount((stores - self.values.data_ptr()).astype(np.int64) // 2)
        assert times.max() == 1, f"{(times > 1).sum()} elements written more than once"
        if whole:
            missing = self.values.numel() - len(stores)
            assert missing == 0, f"{missing} elements not written"


def relative_error(y: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """Norm of the error of finite values, relative; the others have to be where they are in
    ``exact`` rounded to ``dtype``.
    """
    rounded = exact.to(dtype)
    for kind in (torch.isnan, torch.isinf):
        expected, found = kind(rounded), kind(y)
        differ = int((expected != found).sum())
        assert differ == 0, f"{kind.__name__}: {differ} elements differ"
    finite = rounded.isfinite()
    return float((y - exact)[finite].norm() / exact[finite].norm().clamp(min=1e-30))


def _check_rounded_once(y: Tensor, exact: Tensor, size: Tensor, dtype: torch.dtype) -> None:
    half, least = _HALF[dtype]
    excess = (y - exact).abs() - half * exact.abs() - least - _SUMS * size
    finite = exact.isfinite() & y.isfinite()
    wrong = int((excess[finite] > 0).sum())
    assert wrong == 0, f"{wrong} elements are not the float64 values rounded once"


def conv_inputs(case: ConvCase) -> tuple[Tensor, Tensor, Tensor]:
    """Input, unmerged weight (C x width x 3 x 3) and bias."""
    made = Seeded(case)
    x = made.values(case.batch, case.channels, case.height, case.columns)
    weight = made.values(case.channels, case.width, 3, 3) / (9 * case.width) ** 0.5
    return x, weight, made.values(case.channels, dtype=torch.float32)


def merged_weight(narrow: Tensor, merged: int) -> Tensor:
    """C x ``merged`` x 3 x 3 of C x width x 3 x 3, a channel at a time."""
    channels, width = narrow.shape[:2]
    weight = narrow.new_zeros(channels, merged, 3, 3)
    for channel in range(channels):
        first = channel // width * width % merged
        weight[channel, first : first + width] = narrow[channel]
    return weight


def packed(weight: Tensor) -> Tensor:
    """The kernel's layout of C x width x 3 x 3."""
    width = weight.shape[1]
    return weight.view(-1, width, width, 3, 3).permute(0, 3, 4, 2, 1).contiguous()


def guarded(values: Tensor) -> Tensor:
    """The values amid NaN; images in channels-last."""
    view = _inside(_amid(values.shape, values.dtype, float("nan")), values.shape)
    return view.copy_(values)


def inside(addresses: Any, tensor: Tensor | Nowhere) -> Any:
    """Which addresses are of elements of the tensor, which has no gaps."""
    start = tensor.data_ptr()
    return (addresses >= start) & (addresses < start + tensor.numel() * tensor.element_size())


def first_and_last(count: int) -> Chosen:
    """Chooses the first, the last, and others spread evenly: ``count`` programs of a flat grid."""

    def chosen(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [(int(index),) for index in np.unique(np.linspace(0, grid[0] - 1, count, dtype=int))]

    return chosen


def named(case: Iterable[Any]) -> str:
    """A name of a case for a test."""
    return "-".join(str(field).replace("torch.", "") for field in case)


def hash_of(case: tuple[Any, ...]) -> int:
    """A number that is the same in every process."""
    return zlib.crc32(repr(case).encode())


def _strided(case: ConvCase | PoolCase, stride: int) -> tuple[int, int]:
    return (case.height - 1) // stride + 1, (case.columns - 1) // stride + 1


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nihw,io->nohw", x, weight)


def _amid(shape: Sequence[int], dtype: torch.dtype, value: float) -> Tensor:
    return torch.full((2 * _GUARD + int(np.prod(shape)),), value, dtype=dtype)


def _inside(around: Tensor, shape: Sequence[int]) -> Tensor:
    flat = around[_GUARD : around.numel() - _GUARD]
    if len(shape) != 4:
        return flat.view(*shape)
    images, channels, height, columns = shape
    return flat.view(images, height, columns, channels).permute(0, 3, 1, 2)


def _flat(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).reshape(-1)
