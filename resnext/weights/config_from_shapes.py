"""The configuration that tensors have, from their names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

from resnext.errors import UsageError
from resnext.network.config import ResNeXtConfig, Stem

#: Kernel of the first convolution, the stem that has it, and the input that is assumed.
_STEMS: Mapping[int, tuple[Stem, int]] = {7: ("imagenet", 224), 3: ("small", 32)}


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> ResNeXtConfig:
    """The network whose tensors have these shapes; its input size is an assumption.

    Nothing in the tensors says how large the input is, so it is 224x224 for the stem of ImageNet
    networks, and 32x32 for the small one. That every tensor fits remains to be checked.

    Args:
        shapes: of each tensor, by torchvision's parameter names.

    Raises:
        ValueError: no configuration has them; says which tensor shows it.
    """
    stem_channels, in_channels, height, width = _shape(shapes, "conv1.weight", 4)
    if height != width or height not in _STEMS:
        raise ValueError(f"conv1.weight has a kernel of {height}x{width}, not 7x7 or 3x3")
    stem, size = _STEMS[height]
    inner, group_width, *_ = _shape(shapes, "layer1.0.conv2.weight", 4)
    if group_width == 0 or inner % group_width:
        raise ValueError(f"layer1.0.conv2.weight has {inner} outputs in groups of {group_width}")
    num_classes, _ = _shape(shapes, "fc.weight", 2)
    try:
        return ResNeXtConfig(
            depths=_depths(shapes),
            cardinality=inner // group_width,
            bottleneck_width=group_width,
            input_size=(size, size),
            in_channels=in_channels,
            num_classes=num_classes,
            stem=stem,
            stem_channels=stem_channels,
        )
    except UsageError as exc:
        raise ValueError(exc.message) from exc


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"there is no {name}")
    if len(shapes[name]) != dimensions:
        raise ValueError(f"{name} has {len(shapes[name])} dimensions, not {dimensions}")
    return shapes[name]


def _depths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Number of blocks in each stage, up to the first that is missing."""
    depths: list[int] = []
    while f"layer{len(depths) + 1}.0.conv1.weight" in shapes:
        blocks = 1
        while f"layer{len(depths) + 1}.{blocks}.conv1.weight" in shapes:
            blocks += 1
        depths.append(blocks)
    return tuple(depths)
