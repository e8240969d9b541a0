"""Chooses the tile that has the least time on paper."""

from __future__ import annotations

from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvChoice, ConvShape, ProductShape

from .bounds import predict
from .launch import Launch, grouped_launch, product_launch
from .machines import Assumed, Machine


class OnPaper:
    """See `resnext.kernels.network.Choose`.

    Args:
        machine: the GPU.
        assumed: what share of its ceilings the kernels reach.
    """

    def __init__(self, machine: Machine, assumed: Assumed) -> None:
        self._machine, self._assumed = machine, assumed

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """One of ``choices``."""

        def time(choice: ConvChoice) -> tuple[float, float]:
            return self._time(grouped_launch(shape._replace(width=choice.width), choice.tile))

        return min(choices, key=time)

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        """One of ``choices``."""
        return min(choices, key=lambda tile: self._time(product_launch(shape, tile)))

    def _time(self, launch: Launch) -> tuple[float, float]:
        """The largest bound; among equals, of which memory's are many, the sum of all."""
        bounds = predict([launch], self._machine, self._assumed)[0].bounds.values()
        return max(bounds), sum(bounds)
