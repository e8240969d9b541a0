"""How close a row comes to the limit: its time beside the network's floors on this machine."""

from __future__ import annotations

from resnext.artifact.specs import Strict
from resnext.network.config import ResNeXtConfig

from .ceilings import MachineCeilings
from .floors import LimitedBy, blocks_bytes, floors


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
        operations: multiplications and additions of the batch; 0 in files from before the last four
            fields were stored.
        blocks_bytes: bytes that every residual block reads and writes, with its weights.
        operations_per_s: the ceiling of the product.
        bytes_per_s: the ceiling of a copy.
    """

    ceiling: str
    compute_ns: float
    layers_ns: float
    blocks_ns: float
    limited_by: LimitedBy
    share: float
    operations: float = 0.0
    blocks_bytes: int = 0
    operations_per_s: float = 0.0
    bytes_per_s: float = 0.0


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
    ceiling = ceilings.ceiling(precision)
    floor = floors(config, precision, batch, ceiling)
    return Distance(
        ceiling=ceilings.fastest(precision).name,
        compute_ns=floor.compute_s * 1e9,
        layers_ns=floor.layers_s * 1e9,
        blocks_ns=floor.blocks_s * 1e9,
        limited_by=floor.limited_by,
        share=images_per_s / batch * floor.blocks_s,
        operations=floor.compute_s * ceiling.operations_per_s,
        blocks_bytes=blocks_bytes(config, precision, batch),
        operations_per_s=ceiling.operations_per_s,
        bytes_per_s=ceiling.bytes_per_s,
    )
