"""`ResNeXtConfig`, the shape of a network, and `VARIANTS`, the table of named ones.

Source: Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from resnext.errors import UnknownName, UsageError

#: Output channels of a bottleneck block divided by its stage's base width.
EXPANSION = 4

Stem = Literal["imagenet", "small"]


@dataclass(frozen=True)
class ResNeXtConfig:
    """Shape of one network. Validated on construction, immutable afterwards.

    Stage ``i`` (from 0) has ``depths[i]`` bottleneck blocks. Each block's grouped 3x3 convolution
    has ``cardinality`` groups of ``bottleneck_width * 2**i`` channels, and the block has
    ``stem_channels * 4 * 2**i`` output channels. Every stage but the first halves height and width.

    Attributes:
        depths: bottleneck blocks in each stage.
        cardinality: number of groups C of every 3x3 convolution (1 is a plain ResNet).
        bottleneck_width: channels d of one group in the first stage.
        input_size: (height, width) of the input, pixels.
        in_channels: image channels.
        num_classes: number of logits.
        stem: ``"imagenet"`` is a 7x7 convolution of stride 2 and a max pool; ``"small"`` a 3x3 of
            stride 1.
        stem_channels: output channels of the stem.

    Raises:
        UsageError: a value is not allowed; the message says which values are.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    cardinality: int = 32
    bottleneck_width: int = 4
    input_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    stem: Stem = "imagenet"
    stem_channels: int = 64

    def __post_init__(self) -> None:
        for field in (
            "cardinality",
            "bottleneck_width",
            "in_channels",
            "num_classes",
            "stem_channels",
        ):
            value = getattr(self, field)
            if not _is_count(value):
                raise UsageError(f"{field} must be an integer of at least 1, got {value!r}")
        depths: object = (
            self.depths
        )  # as object: callers that are not type-checked may pass anything
        if not (
            isinstance(depths, tuple) and 1 <= len(depths) <= 6 and all(map(_is_count, depths))
        ):
            raise UsageError(
                f"depths must be a tuple of 1 to 6 integers of at least 1, got {self.depths!r}"
            )
        if sum(self.depths) > _MOST_BLOCKS:
            raise UsageError(
                f"depths must add up to {_MOST_BLOCKS} blocks at most, got {sum(self.depths)}"
            )
        if self.stem not in ("imagenet", "small"):
            raise UsageError(f"stem must be 'imagenet' or 'small', got {self.stem!r}")
        size: object = self.input_size
        if not (isinstance(size, tuple) and len(size) == 2 and all(map(_is_count, size))):
            raise UsageError(
                "`input_size` must be a pair (height, width) of integers of at least 1, got"
                f" {size!r}"
            )
        if min(self.input_size) < self.total_stride:
            raise UsageError(
                f"`input_size` {self.input_size[0]}x{self.input_size[1]} is too small: this network"
                f" divides height and width by {self.total_stride}, so each must be at least"
                f" {self.total_stride}"
            )

    @property
    def total_stride(self) -> int:
        """Factor by which height and width shrink from the input to the last stage."""
        return int((4 if self.stem == "imagenet" else 1) * 2 ** (len(self.depths) - 1))

    @property
    def depth(self) -> int:
        """Weighted layers as the paper counts them: three per block, plus stem and classifier."""
        return 3 * sum(self.depths) + 2

    def group_width(self, stage: int) -> int:
        """Channels of one group of the 3x3 convolutions in ``stage`` (from 0)."""
        return int(self.bottleneck_width * 2**stage)

    def inner_channels(self, stage: int) -> int:
        """Channels inside the bottleneck of ``stage`` (from 0)."""
        return self.cardinality * self.group_width(stage)

    def out_channels(self, stage: int) -> int:
        """Output channels of ``stage`` (from 0)."""
        return int(self.stem_channels * EXPANSION * 2**stage)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST


#: Larger than anything that could be built: a typing error must not keep a machine busy for
#: hours.
_MOST = 1_000_000
_MOST_BLOCKS = 10_000


def _paper(depths: tuple[int, ...], cardinality: int, width: int) -> ResNeXtConfig:
    return ResNeXtConfig(depths=depths, cardinality=cardinality, bottleneck_width=width)


def _cifar(cardinality: int, width: int) -> ResNeXtConfig:
    # Original blocks, as the authors' released code recommends; the paper's CIFAR results are of
    # pre-activated ones.
    return ResNeXtConfig(
        (3, 3, 3), cardinality, width, input_size=(32, 32), num_classes=10, stem="small"
    )


def _small(size: int) -> ResNeXtConfig:
    return ResNeXtConfig((1, 1, 1), 8, 4, (size, size), 1, 10, stem="small", stem_channels=16)


#: Every named network. The names follow torchvision and the paper (depth, cardinality x width).
VARIANTS: Mapping[str, ResNeXtConfig] = MappingProxyType(
    {
        "resnet50": _paper((3, 4, 6, 3), 1, 64),
        "resnet101": _paper((3, 4, 23, 3), 1, 64),
        "resnext50_32x4d": _paper((3, 4, 6, 3), 32, 4),
        "resnext101_32x4d": _paper((3, 4, 23, 3), 32, 4),
        "resnext101_32x8d": _paper((3, 4, 23, 3), 32, 8),
        "resnext101_64x4d": _paper((3, 4, 23, 3), 64, 4),
        "resnext152_32x4d": _paper((3, 8, 36, 3), 32, 4),
        "resnext29_8x64d": _cifar(8, 64),
        "resnext29_16x64d": _cifar(16, 64),
        "resnext11_8x4d_digits": _small(8),
        "resnext11_8x4d_fashion": _small(28),
    }
)


def variant(name: str) -> ResNeXtConfig:
    """The configuration named ``name``.

    Raises:
        UnknownName: no such variant; lists all and the nearest.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise UnknownName("model", name, VARIANTS) from None


def variant_name(config: ResNeXtConfig) -> str | None:
    """The name of the variant that ``config`` is, or None for one without a name."""
    return next((name for name, known in VARIANTS.items() if known == config), None)
