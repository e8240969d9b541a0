"""The kernels of `resnext.kernels` in Triton's interpreter: NumPy on a CPU in place of a GPU.

Interpreted twins of the kernels' modules are loaded beside the modules themselves, so that one
process can interpret a kernel and compile it. The interpreter of Triton 3.6 takes bfloat16 for
integers in a matrix product and truncates float32 to bfloat16; `interpreting` does both as a GPU
does.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import triton
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

from resnext.kernels import grouped_conv3x3, pointwise, pool


class Fault(NamedTuple):
    """A fault planted into a kernel.

    Attributes:
        module: name of the kernel's module.
        old: its source text.
        new: what stands there instead.
        times: how often the text is there.
    """

    module: str
    old: str
    new: str
    times: int = 1


class Interpreted:
    """The operators of `resnext.kernels.ops` by interpreted kernels, on CPU tensors.

    Args:
        fault: planted into the twins.
        folder: for the sources of faulty twins.

    Attributes:
        conv, product, pool: the interpreted twins of the kernels' modules.
    """

    def __init__(self, fault: Fault | None = None, folder: Path | None = None) -> None:
        self.conv = _twin(grouped_conv3x3, fault, folder)
        self.product = _twin(pointwise, fault, folder)
        self.pool = _twin(pool, fault, folder)

    def grouped_conv3x3(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, tile: list[int]
    ) -> Tensor:
        """``relu(conv(x) + bias)``."""
        height, width = ((size - 1) // stride + 1 for size in x.shape[2:])
        y = _poisoned(x, x.shape[1], height, width)
        with interpreting():
            self.conv.launch(
                self.conv.grouped_conv3x3_kernel,
                _channels_last(x),
                weight,
                bias,
                y,
                stride,
                self.conv.ConvTile(*tile),
            )
        return y

    def pointwise(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        tile: list[int],
        shortcut: Tensor | None = None,
        projection: Tensor | None = None,
        stride: int = 1,
    ) -> Tensor:
        """``relu(x @ weight + bias + shortcut)``."""
        y = _poisoned(x, weight.shape[1], x.shape[2], x.shape[3])
        with interpreting():
            self.product.launch(
                self.product.pointwise_kernel,
                _channels_last(x),
                weight,
                bias,
                y,
                self.product.ProductTile(*tile),
                shortcut=None if shortcut is None else _channels_last(shortcut),
                projection=projection,
                stride=stride,
            )
        return y

    def max_pool(self, x: Tensor, bias: Tensor) -> Tensor:
        """``relu(max_pool(x) + bias)``."""
        height, width = ((size - 1) // 2 + 1 for size in x.shape[2:])
        y = _poisoned(x, x.shape[1], height, width)
        with interpreting():
            self.pool.launch(self.pool.max_pool_kernel, _channels_last(x), bias, y)
        return y


class Accesses:
    """Addresses that programs read and write; of masked accesses, those that take place.

    Args:
        dry: nothing is read or written, loads give 0: for tensors that are `Nowhere`.
    """

    def __init__(self, *, dry: bool = False) -> None:
        self.loads: list[Any] = []
        self.stores: list[Any] = []
        self._dry = dry

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Inside the block, interpreted kernels are recorded."""
        load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

        def recorded_load(builder: Any, pointers: Any, mask: Any, *others: Any) -> Any:
            self.loads.append(_active(pointers, mask))
            if self._dry:
                mask = TensorHandle(np.zeros_like(mask.data), mask.dtype)
            return load(builder, pointers, mask, *others)

        def recorded_store(
            builder: Any, pointers: Any, values: Any, mask: Any, *others: Any
        ) -> Any:
            self.stores.append(_active(pointers, mask))
            if self._dry:
                return None
            return store(builder, pointers, values, mask, *others)

        with (
            mock.patch.object(InterpreterBuilder, "create_masked_load", recorded_load),
            mock.patch.object(InterpreterBuilder, "create_masked_store", recorded_store),
            ExitStack() as patches,
        ):
            if self._dry:
                executor = interpreter.GridExecutor
                for name, without in (
                    ("_init_args_hst", lambda _, args, others: (args, others)),
                    ("_restore_args_dev", lambda *_: None),
                ):
                    patches.enter_context(mock.patch.object(executor, name, without))
            yield


class Nowhere:
    """A tensor that has an address and no memory.

    Args:
        shape: its shape.
        address: of its first value.
        dtype: of its values.
    """

    def __init__(
        self, shape: tuple[int, ...], address: int, dtype: torch.dtype = torch.float16
    ) -> None:
        self.shape, self.dtype, self._address = shape, dtype, address

    def data_ptr(self) -> int:
        """Address of the first value."""
        return self._address

    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def element_size(self) -> int:
        """Bytes of a value."""
        return self.dtype.itemsize


class Programs:
    """A kernel that runs a few programs of its grid.

    Args:
        kernel: an interpreted kernel.
        chosen: the programs to run, by the grid.
    """

    def __init__(
        self, kernel: Any, chosen: Callable[[tuple[int, ...]], list[tuple[int, ...]]]
    ) -> None:
        self._kernel, self._chosen = kernel, chosen

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """Launches the chosen programs of ``grid``."""

        def run(*args: Any, **others: Any) -> None:
            programs = self._chosen(grid)

            def program_id(builder: Any, axis: int) -> Any:
                index = programs[builder.grid_idx[0]][axis]
                return TensorHandle(np.array([index], np.int32), triton.language.int32)

            with mock.patch.object(InterpreterBuilder, "create_get_program_id", program_id):
                self._kernel[len(programs),](*args, **others)

        return run


@contextmanager
def interpreting() -> Iterator[None]:
    """Inside the block, the interpreter computes bfloat16 as a GPU does, and quickly."""
    with (
        np.errstate(all="ignore"),  # NaN and Inf are values like others
        mock.patch.object(InterpreterBuilder, "create_dot", _dot),
        mock.patch.object(InterpreterBuilder, "cast_impl", _cast),
        # A kernel's launch has put the interpreter in place already, for its functions as well.
        mock.patch.object(InterpretedFunction, "__call__", _call),
        # Computes in 64 bits what would overflow in 32, and drops the result.
        mock.patch.object(interpreter.interpreter_builder, "options", _OPTIONS),
    ):
        yield


def float32_from_bfloat16(bits: Any) -> Any:
    """Values of bfloat16 numbers that the interpreter keeps as 16-bit integers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bfloat16_from_float32(values: Any) -> Any:
    """The bits of ``values`` rounded to the nearest bfloat16, to even in the middle."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


_OPTIONS = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
_cast_as_shipped = InterpreterBuilder.cast_impl
_dot_as_shipped = InterpreterBuilder.create_dot


def _cast(builder: Any, handle: Any, to: Any) -> Any:
    names = str(handle.dtype.scalar), str(to.scalar)
    if names == ("fp32", "bf16"):
        return TensorHandle(bfloat16_from_float32(handle.data), to.scalar)
    if names == ("bf16", "fp32"):
        return TensorHandle(float32_from_bfloat16(handle.data), to.scalar)
    assert "bf16" not in names, f"the interpreter cannot cast {names[0]} to {names[1]}"
    return _cast_as_shipped(builder, handle, to)


def _dot(builder: Any, left: Any, right: Any, sums: Any, *options: Any) -> Any:
    return _dot_as_shipped(builder, _widened(left), _widened(right), sums, *options)


def _widened(handle: Any) -> Any:
    if str(handle.dtype.scalar) == "fp16":
        return TensorHandle(handle.data.astype(np.float32), triton.language.float32)
    assert str(handle.dtype.scalar) == "bf16"
    return TensorHandle(float32_from_bfloat16(handle.data), triton.language.float32)


def _active(pointers: Any, mask: Any) -> Any:
    return pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]


def _call(function: Any, *args: Any, **others: Any) -> Any:
    return function.rewrite()(*args, **others)


def _twin(module: ModuleType, fault: Fault | None, folder: Path | None) -> Any:
    assert module.__file__ is not None
    source = Path(module.__file__)
    name = source.stem
    if fault is not None and fault.module == name:
        assert folder is not None
        text = source.read_text()
        assert text.count(fault.old) == fault.times, f"{text.count(fault.old)} times: {fault.old}"
        source = folder / source.name
        source.write_text(text.replace(fault.old, fault.new))
    spec = importlib.util.spec_from_file_location(f"interpreted_{name}", source)
    assert spec is not None
    assert spec.loader is not None
    twin = importlib.util.module_from_spec(spec)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        spec.loader.exec_module(twin)
    return twin


def _poisoned(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    y = x.new_full((x.shape[0], channels, height, width), float("nan"))
    return _channels_last(y)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
