"""How close a row comes to the limit: its time beside the network's floors on this machine."""

from __future__ import annotations

from resnext.artifact.specs import Strict
from resnext.network.config import ResNeXtConfig

from .ceilings import MachineCeilings
from .floors import LimitedBy, floors


class Distance(Strict):
    """Floors of one batch, and the share of them that a row reaches.

    Attributes:
        ceiling: precision and instruction set of the product that the floors are of: ``int8 amx``.
        compute_ns: floor of the operations alone, nanoseconds.
        layers_ns: floor with every layer's input and output in memory.
        blocks_ns: floor with only the input and output of every residual block in memory.
        limited_by: what sets the last one: ``compute`` or ``memory``.
        share: of the last one, by the row's time: 1 is the limit. Measured ceilings may be lower
            than the machine's, and activations that stay in a cache cost no memory traffic, so it
            can be more.
    """

    ceiling: str
    compute_ns: float
    layers_ns: float
    blocks_ns: float
    limited_by: LimitedBy
    share: float


def distance(
    config: ResNeXtConfig,
    precision: str,
    batch: int,
    images_per_s: float,
    ceilings: MachineCeilings,
) -> Distance:
    """The distance of a row.

    Args:
        config: the network.
        precision: of weights and activations, a key of `resnext.precision.NUMERICS`.
        batch: images in one run.
        images_per_s: throughput of the row; with several requests in flight, of all of them.
        ceilings: of the device that it ran on, with its number of threads.
    """
    floor = floors(config, precision, batch, ceilings.ceiling(precision))
    return Distance(
        ceiling=ceilings.fastest(precision).name,
        compute_ns=floor.compute_s * 1e9,
        layers_ns=floor.layers_s * 1e9,
        blocks_ns=floor.blocks_s * 1e9,
        limited_by=floor.limited_by,
        share=images_per_s / batch * floor.blocks_s,
    )
