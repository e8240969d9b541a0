"""Chooses tiles by timing the few that are worth it, once for each shape and GPU."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from resnext.storage import cache_folder, read_cached, write_cached

from . import grouped_conv3x3, ops, pointwise
from .compiling import CompileOnly, compile_all
from .pointwise import ProductTile
from .tiles import ConvChoice, ConvShape, ProductShape

Launch: TypeAlias = "Callable[[], object]"
#: Times launches against each other: milliseconds of each.
Race: TypeAlias = "Callable[[Sequence[Launch]], Sequence[float]]"
_C = TypeVar("_C", ConvChoice, ProductTile)
#: Makes of a choice what compiles it, and what runs it.
_Launches: TypeAlias = "Callable[[_C], tuple[Launch, Launch]]"


class Tuned:
    """Chooses the fastest tile for each layer on the GPU at hand; winners are kept in the cache
    folder, in a file named after the GPU.

    Args:
        race: times the candidates.
        dtype: of activations and weights.
        device: where they are.
        gpu: the GPU's name.
        announce: told the layer whose tiles are about to be timed.
        copied_ahead: whether tiles that copy rows ahead may win (`may_copy_ahead`).
    """

    def __init__(
        self,
        race: Race,
        dtype: torch.dtype,
        device: torch.device,
        gpu: str,
        announce: Callable[[str], object],
        *,
        copied_ahead: bool = True,
    ) -> None:
        self._race, self._dtype, self._device, self._announce = race, dtype, device, announce
        self._copied_ahead = copied_ahead
        self._winners = Winners(gpu)

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """The fastest width and tile for a grouped convolution.

        Raises:
            RuntimeError: none of them runs.
        """
        if not self._copied_ahead:
            choices = [choice for choice in choices if choice.tile.stages == 1]
        return self._winner(f"grouped 3x3 {_text(shape)}", choices, lambda: self._convs(shape))

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        """The fastest tile for a product.

        Raises:
            RuntimeError: none of them runs.
        """
        return self._winner(f"1x1 {_text(shape)}", choices, lambda: self._products(shape))

    def _convs(self, shape: ConvShape) -> _Launches[ConvChoice]:
        x = self._random(shape.batch, shape.channels, shape.height, shape.columns)
        bias, stride = torch.zeros(shape.channels, device=self._device), shape.stride
        y = self._output(shape.batch, shape.channels, shape.out_height, shape.out_columns)
        kernel = CompileOnly(grouped_conv3x3.grouped_conv3x3_kernel)

        def launches(choice: ConvChoice) -> tuple[Launch, Launch]:
            wide, tile = choice
            weight = self._random(shape.channels // wide, 3, 3, wide, wide)
            return (
                partial(grouped_conv3x3.launch, kernel, x, weight, bias, y, stride, tile),
                lambda: ops.grouped_conv3x3(x, weight, bias, stride, list(tile)),
            )

        return launches

    def _products(self, shape: ProductShape) -> _Launches[ProductTile]:
        x = self._random(shape.pixels, shape.inputs, 1, 1)
        weight = self._random(shape.inputs, shape.outputs)
        bias = torch.zeros(shape.outputs, device=self._device)
        y = self._output(shape.pixels, shape.outputs, 1, 1)
        more: dict[str, Any] = {}
        if shape.projected:
            more["shortcut"] = self._random(shape.pixels, shape.projected, *[shape.stride] * 2)
            more["projection"] = self._random(shape.projected, shape.outputs)
            more["stride"] = shape.stride
        elif shape.shortcut:
            more["shortcut"] = self._random(shape.pixels, shape.outputs, 1, 1)
        kernel = CompileOnly(pointwise.pointwise_kernel)

        def launches(tile: ProductTile) -> tuple[Launch, Launch]:
            return (
                partial(pointwise.launch, kernel, x, weight, bias, y, tile, **more),
                lambda: ops.pointwise(x, weight, bias, list(tile), **more),
            )

        return launches

    def _winner(self, layer: str, choices: list[_C], prepare: Callable[[], _Launches[_C]]) -> _C:
        """The fastest of ``choices``; only if it is not known are tensors made to time them."""
        key = f"{layer} {self._dtype}".replace("torch.", "")
        if (known := self._winners.get(key)) is not None:
            for choice in choices:
                if repr(choice) == known:
                    return choice
        self._announce(f"timing {len(choices)} tiles for {layer}")
        compiles, runs = zip(*map(prepare(), choices), strict=True)
        if self._device.type == "cuda":  # a CPU runs PyTorch's operators
            compile_all(compiles)
        problems = [_problem(run) for run in runs]
        able = [
            (choice, run)
            for choice, run, problem in zip(choices, runs, problems, strict=True)
            if problem is None
        ]
        if not able:
            raise RuntimeError(
                f"no tile of the kernel for {layer} runs on this GPU: {problems[0]}"
            ) from problems[0]
        times = self._race([run for _, run in able])
        best = min(zip(times, able, strict=True), key=lambda timed: timed[0])[1][0]
        self._winners.put(key, repr(best))
        return best

    def _random(self, *shape: int) -> Tensor:
        """Images in channels-last, or weights; drawn in place: a batch may fill much of a GPU."""
        if len(shape) != 4:
            return torch.randn(shape, dtype=self._dtype, device=self._device)
        batch, channels, *size = shape
        drawn = torch.randn((batch, *size, channels), dtype=self._dtype, device=self._device)
        return drawn.permute(0, 3, 1, 2)

    def _output(self, *shape: int) -> Tensor:
        """The form of an output, to compile for."""
        return torch.empty(shape, dtype=self._dtype, device="meta")


def may_copy_ahead(capability: tuple[int, int]) -> bool:
    """Whether Triton compiles the convolution's loop with stages rightly for a GPU.

    Its products are chained through sums that go from turn to turn. For Blackwell's tcgen05
    instructions, Triton 3.6 to 3.8 may start such a product before the one that it adds to has
    ended (triton-lang/triton#10821, #10993); a loop without stages is not affected.

    Args:
        capability: the GPU's compute capability.
    """
    return capability[0] != 10  # 12.x has no such instructions


class Winners:
    """The fastest tiles on one GPU, of these kernels and this version of Triton.

    Args:
        gpu: the GPU's name.
    """

    def __init__(self, gpu: str) -> None:
        code = hashlib.sha256(triton.__version__.encode())
        for module in (grouped_conv3x3, pointwise):
            code.update(Path(str(module.__file__)).read_bytes())
        name = re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-")
        self.path = cache_folder() / "kernels" / f"{name}-{code.hexdigest()[:16]}.json"

    def get(self, key: str) -> str | None:
        """The winner for ``key``, None if there is none."""
        return self._read().get(key)

    def put(self, key: str, winner: str) -> None:
        """Keep ``winner``; a cache that cannot be written costs time, and nothing else."""
        stored = json.dumps({**self._read(), key: winner}, indent=1).encode()
        with suppress(OSError):
            write_cached(self.path, stored)

    def _read(self) -> dict[str, str]:
        """All that is known; whatever else a file holds, tiles are timed again."""
        stored, known = read_cached(self.path), None
        with suppress(ValueError, RecursionError):
            known = json.loads(stored or b"{}")
        return known if isinstance(known, dict) else {}


def _problem(launch: Launch) -> Exception | None:
    """Why a tile does not compile, or does not fit into the GPU's registers and shared memory."""
    try:
        launch()
    except (TritonError, RuntimeError) as exc:
        # Of a compiler's pass, and of the driver that loads the code, there are plain
        # RuntimeErrors; those derived from it are PyTorch's, as for memory that ran out.
        if isinstance(exc, RuntimeError) and type(exc) is not RuntimeError:
            raise
        return exc
    return None


def _text(shape: ConvShape | ProductShape) -> str:
    return " ".join(f"{name} {value}" for name, value in shape._asdict().items())
