"""The network: the only ``nn.Module`` code of the family.

Parameter names and shapes are torchvision's (``conv1``, ``layer1.0.conv2``,
``layer2.0.downsample.0``, ``fc``), so its state dicts, and timm's, load strictly. The stride of a
stage sits in the 3x3 convolution of its first block, as in the paper and in torchvision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import EXPANSION, ResNeXtConfig


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias (a batch norm follows)."""
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def grouped_conv3x3(channels: int, groups: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution of ``groups`` independent groups, padded to keep height and width."""
    return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=groups, bias=False)


class Bottleneck(nn.Module):
    """One residual block in the paper's Figure 3 (c) form: 1x1 reduce, grouped 3x3, 1x1 expand.

    Args:
        in_channels: input channels.
        inner_channels: channels of the grouped convolution, a multiple of ``cardinality``.
        out_channels: output channels.
        cardinality: groups of the 3x3 convolution.
        stride: stride of the 3x3 convolution and of the shortcut.
    """

    expansion = EXPANSION

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        cardinality: int,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, inner_channels)
        self.bn1 = nn.BatchNorm2d(inner_channels)
        self.conv2 = grouped_conv3x3(inner_channels, cardinality, stride)
        self.bn2 = nn.BatchNorm2d(inner_channels)
        self.conv3 = conv1x1(inner_channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        # Identity if shapes allow it, otherwise a projection (the paper's option B).
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N x in_channels x H x W) to N x out_channels x H/stride x W/stride."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + shortcut)
        return out


class ResNeXt(nn.Module):
    """A ResNeXt as `ResNeXtConfig` describes it.

    Weights are PyTorch's default initialization; `resnext.weights.spec` gives trained and
    seeded ones.
    """

    def __init__(self, config: ResNeXtConfig) -> None:
        super().__init__()
        self.config = config
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(
                config.in_channels, config.stem_channels, 7, stride=2, padding=3, bias=False
            )
        else:
            self.conv1 = nn.Conv2d(
                config.in_channels, config.stem_channels, 3, padding=1, bias=False
            )
        self.bn1 = nn.BatchNorm2d(config.stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = (
            nn.MaxPool2d(3, stride=2, padding=1) if config.stem == "imagenet" else nn.Identity()
        )
        channels = config.stem_channels
        for stage, depth in enumerate(config.depths):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    Bottleneck(
                        channels,
                        config.inner_channels(stage),
                        config.out_channels(stage),
                        config.cardinality,
                        stride,
                    )
                )
                channels = config.out_channels(stage)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, config.num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The stages, first to last."""
        return [self.get_submodule(f"layer{stage + 1}") for stage in range(len(self.config.depths))]

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (N x C) of images ``x`` (N x in_channels x H x W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = stage(x)
        return torch.flatten(self.avgpool(x), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N x num_classes) of preprocessed images ``x`` (N x in_channels x H x W,
        float).
        """
        logits: Tensor = self.fc(self.features(x))
        return logits
