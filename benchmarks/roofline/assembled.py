"""Registers, shared memory and instructions from the assembler, in place of estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from resnext.kernels.grouped_conv3x3 import ConvTile
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvChoice, ConvShape, ProductShape

from .launch import Launch

#: Compute capability of an H100 and an H200, times ten.
_HOPPER = 90


class Compile(Protocol):
    """`kernel_sass.compiled`."""

    def __call__(self, kernel: str, arch: int, dtype: str, shape: Any, choice: Any) -> Any:
        """The compiled kernel of a launch."""
        ...


def assembled(launches: Sequence[Launch], compiled: Compile, precision: str) -> list[Launch]:
    """The same launches, those of the 3x3s and 1x1s as the assembler made them.

    Args:
        launches: of one pass.
        compiled: compiles a kernel without a GPU.
        precision: ``fp16`` or ``bf16``.
    """
    known: dict[tuple[object, ...], Any] = {}

    def code(kernel: str, shape: object, choice: object) -> Any:
        key = kernel, shape, choice
        if key not in known:
            known[key] = compiled(kernel, _HOPPER, precision, shape, choice)
        return known[key]

    made = []
    for launch in launches:
        shape, tile = launch.shape, launch.choice
        if isinstance(shape, ConvShape) and isinstance(tile, ConvTile):
            found = code("conv3x3", shape, ConvChoice(shape.width, tile))
            turns = [tile.rows]
        elif isinstance(shape, ProductShape) and isinstance(tile, ProductTile):
            found = code("pointwise", shape, tile)
            turns = [
                -(-inputs // tile.inputs) for inputs in (shape.inputs, shape.projected) if inputs
            ]
        else:
            made.append(launch)
            continue
        made.append(
            replace(
                launch,
                registers=found.registers,
                shared=found.shared_bytes,
                instructions=launch.warps * _issued(found, turns),
            )
        )
    return made


def _issued(found: Any, turns: Sequence[int]) -> int:
    """Instructions of one warp: all once, and each loop's as often as it turns.

    A loop that the compiler unrolled whole is none, and is counted with all the others.
    """
    again = sum(
        max(0, turn - 1) * loop.instructions for turn, loop in zip(turns, found.loops, strict=False)
    )
    return int(found.code.instructions + again)
