"""Chooses tiles by timing the few that are worth it, once for each shape and GPU."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from resnext.storage import cache_folder, read_cached, write_cached

from . import grouped_conv3x3, ops, pointwise
from .pointwise import ProductTile
from .tiles import ConvChoice, ConvShape, ProductShape

Launch: TypeAlias = "Callable[[], object]"
#: Times launches against each other: milliseconds of each.
Race: TypeAlias = "Callable[[Sequence[Launch]], Sequence[float]]"
_C = TypeVar("_C", ConvChoice, ProductTile)


class Tuned:
    """Chooses the fastest tile for each layer on the GPU at hand; winners are kept in the cache
    folder, in a file named after the GPU.

    Args:
        race: times the candidates.
        dtype: of activations and weights.
        device: where they are.
        gpu: the GPU's name.
        announce: told the layer whose tiles are about to be timed.
    """

    def __init__(
        self,
        race: Race,
        dtype: torch.dtype,
        device: torch.device,
        gpu: str,
        announce: Callable[[str], object],
    ) -> None:
        self._race, self._dtype, self._device, self._announce = race, dtype, device, announce
        self._winners = Winners(gpu)

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """The fastest width and tile for a grouped convolution.

        Raises:
            RuntimeError: none of them runs.
        """
        x = self._random(shape.batch, shape.channels, shape.height, shape.columns)
        bias = torch.zeros(shape.channels, device=self._device)

        def launch(choice: ConvChoice) -> Launch:
            wide = choice.width
            weight = self._random(shape.channels // wide, 3, 3, wide, wide)
            tile = list(choice.tile)
            return lambda: ops.grouped_conv3x3(x, weight, bias, shape.stride, tile)

        return self._winner(f"grouped 3x3 {_text(shape)}", choices, launch)

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        """The fastest tile for a product.

        Raises:
            RuntimeError: none of them runs.
        """
        x = self._random(shape.pixels, shape.inputs, 1, 1)
        weight = self._random(shape.inputs, shape.outputs)
        bias = torch.zeros(shape.outputs, device=self._device)
        projection = self._random(shape.projected, shape.outputs) if shape.projected else None
        added = shape.projected or shape.outputs * shape.shortcut
        shortcut = self._random(shape.pixels, added, 1, 1) if added else None

        def launch(tile: ProductTile) -> Launch:
            return lambda: ops.pointwise(x, weight, bias, list(tile), shortcut, projection)

        return self._winner(f"1x1 {_text(shape)}", choices, launch)

    def _winner(self, layer: str, choices: list[_C], launch: Callable[[_C], Launch]) -> _C:
        key = f"{layer} {self._dtype}".replace("torch.", "")
        if (known := self._winners.get(key)) is not None:
            for choice in choices:
                if repr(choice) == known:
                    return choice
        self._announce(f"timing {len(choices)} tiles for {layer}")
        launches = {choice: launch(choice) for choice in choices}
        able = [choice for choice in choices if _runs(launches[choice])]
        if not able:
            raise RuntimeError(f"no tile of the kernel for {layer} runs on this GPU")
        times = self._race([launches[choice] for choice in able])
        best = min(zip(times, able, strict=True))[1]
        self._winners.put(key, repr(best))
        return best

    def _random(self, *shape: int) -> Tensor:
        drawn = torch.randn(shape, device=self._device).to(self._dtype)
        if len(shape) != 4:
            return drawn
        return drawn.contiguous(memory_format=torch.channels_last)


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
        stored = read_cached(self.path)
        known: dict[str, str] = {} if stored is None else json.loads(stored)
        return known


def _runs(launch: Launch) -> bool:
    """Whether a tile compiles, and fits into the GPU's registers and shared memory."""
    try:
        launch()
    except TritonError:
        return False
    return True


def _text(shape: ConvShape | ProductShape) -> str:
    return " ".join(f"{name} {value}" for name, value in shape._asdict().items())
