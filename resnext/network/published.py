"""Known parameter and multiply-accumulate counts of each variant.

The table is written by hand; tests check `resnext.network.layers` and the real modules against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Fact:
    """Known counts of one variant.

    Attributes:
        parameters: trainable parameters, exact.
        gmacs: 10^9 multiply-accumulates at the variant's input size, to three decimals.
        printed: the numbers as published, with their source; "" if there are none.
    """

    parameters: int
    gmacs: float
    printed: str


#: One row for each variant, written by hand and checked by tests against `parameters`, `macs`, the
#: built modules and torch's FLOP counter. The paper's "FLOPs" are multiply-accumulates.
FACTS: Mapping[str, Fact] = MappingProxyType(
    {
        "resnet50": Fact(25_557_032, 4.089, "paper, Table 1: 25.5 M, 4.1 G"),
        "resnet101": Fact(44_549_160, 7.801, "torchvision: 44,549,160, 7.80 G"),
        "resnext50_32x4d": Fact(25_028_904, 4.230, "paper, Table 1: 25.0 M, 4.2 G"),
        "resnext101_32x4d": Fact(44_177_704, 7.970, "timm: 44.2 M, 8.0 G"),
        "resnext101_32x8d": Fact(88_791_336, 16.414, "torchvision: 88,791,336, 16.41 G"),
        "resnext101_64x4d": Fact(83_455_272, 15.460, "torchvision: 83,455,272, 15.46 G"),
        "resnext152_32x4d": Fact(59_951_400, 11.710, ""),
        "resnext29_8x64d": Fact(34_426_698, 5.387, "paper, Table 7: 34.4 M"),
        "resnext29_16x64d": Fact(68_155_210, 10.689, "paper, Table 7: 68.1 M"),
        "resnext11_8x4d_digits": Fact(135_610, 0.002, ""),
        "resnext11_8x4d_fashion": Fact(135_610, 0.018, ""),
    }
)
