"""Compiles kernels side by side before they are launched one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

_THREADS = 8


class CompileOnly:
    """A kernel whose launch compiles it alone.

    Args:
        kernel: as `triton.jit` leaves it.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        return partial(self._kernel.warmup, grid=grid)


def compile_all(compiles: Sequence[Callable[[], object]]) -> None:
    """Call ``compiles`` in threads; what fails here fails again when the kernel is launched."""

    def quietly(compiled: Callable[[], object]) -> None:
        with suppress(Exception):
            compiled()

    for first in compiles[:1]:  # alone: it sets up Triton's driver
        quietly(first)
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(quietly, compiles[1:]))
