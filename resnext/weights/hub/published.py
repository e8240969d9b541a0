"""The weights that torchvision and timm publish for networks that `ResNeXtConfig` can express.

Each row has what goes with the weights: preprocessing, top-1 and license. Tests hold it against
torchvision's and timm's own tables. timm's top-1 are those of ``results/results-imagenet.csv`` in
its repository (commit 4e5207c), for the input size and crop of the row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnext.network.config import VARIANTS, ResNeXtConfig

#: The networks by the names that both libraries give them; not all are variants of ours.
ARCHITECTURES: Mapping[str, ResNeXtConfig] = MappingProxyType(
    {
        **{
            name: VARIANTS[name]
            for name in (
                "resnet50",
                "resnet101",
                "resnext50_32x4d",
                "resnext101_32x4d",
                "resnext101_32x8d",
                "resnext101_64x4d",
            )
        },
        "resnet26": ResNeXtConfig((2, 2, 2, 2), 1, 64),
        "resnet152": ResNeXtConfig((3, 8, 36, 3), 1, 64),
        "resnext101_32x16d": ResNeXtConfig((3, 4, 23, 3), 32, 16),
        "resnext101_32x32d": ResNeXtConfig((3, 4, 23, 3), 32, 32),
        "wide_resnet50_2": ResNeXtConfig((3, 4, 6, 3), 1, 128),
        "wide_resnet101_2": ResNeXtConfig((3, 4, 23, 3), 1, 128),
    }
)


@dataclass(frozen=True)
class Published:
    """Weights for ImageNet's 1,000 classes, as their publisher describes them.

    Attributes:
        spec: the SPEC that loads them.
        model: name of the network in `ARCHITECTURES`.
        preprocessing: what an image must go through.
        top1: published accuracy on ImageNet's validation images with this preprocessing, percent.
        license: SPDX identifier, as the publisher states it.
        source: URL of the file, or repository on the Hugging Face hub.
        sha256: the first digits of the file's digest; "" for a repository.
    """

    spec: str
    model: str
    preprocessing: Preprocessing
    top1: float
    license: str
    source: str
    sha256: str = ""

    @property
    def config(self) -> ResNeXtConfig:
        """The network, at the input size that the weights are published for."""
        return replace(ARCHITECTURES[self.model], input_size=self.preprocessing.crop)

    @property
    def commercial(self) -> bool:
        """Whether the license allows commercial use."""
        return "-nc-" not in self.license


def _preprocessing(
    resize: int, size: int, interpolation: Literal["bilinear", "bicubic"]
) -> Preprocessing:
    return Preprocessing(
        resize=resize,
        crop=(size, size),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation=interpolation,
    )


def _torchvision(model: str, version: int, resize: int, top1: float, sha256: str) -> Published:
    return Published(
        f"torchvision:{model}/IMAGENET1K_V{version}",
        model,
        _preprocessing(resize, 224, "bilinear"),
        top1,
        "bsd-3-clause",
        f"https://download.pytorch.org/models/{model}-{sha256}.pth",
        sha256,
    )


def _timm(
    name: str,
    size: int,
    crop_pct: float,
    interpolation: Literal["bilinear", "bicubic"],
    license: str,
    top1: float,
) -> Published:
    return Published(
        f"timm:{name}",
        name.partition(".")[0],
        _preprocessing(math.floor(size / crop_pct), size, interpolation),
        top1,
        license,
        f"timm/{name}",
    )


#: Each network's rows are in the publisher's order: torchvision's default is the last of them,
#: timm's the first.
_ROWS = (
    _torchvision("resnet50", 1, 256, 76.13, "0676ba61"),
    _torchvision("resnet50", 2, 232, 80.858, "11ad3fa6"),
    _torchvision("resnet101", 1, 256, 77.374, "63fe2227"),
    _torchvision("resnet101", 2, 232, 81.886, "cd907fc2"),
    _torchvision("resnet152", 1, 256, 78.312, "394f9c45"),
    _torchvision("resnet152", 2, 232, 82.284, "f82ba261"),
    _torchvision("resnext50_32x4d", 1, 256, 77.618, "7cdf4587"),
    _torchvision("resnext50_32x4d", 2, 232, 81.198, "1a0047aa"),
    _torchvision("resnext101_32x8d", 1, 256, 79.312, "8ba56ff5"),
    _torchvision("resnext101_32x8d", 2, 232, 82.834, "110c445d"),
    _torchvision("resnext101_64x4d", 1, 232, 83.246, "173b62eb"),
    _torchvision("wide_resnet50_2", 1, 256, 78.468, "95faca4d"),
    _torchvision("wide_resnet50_2", 2, 232, 81.602, "9ba9bcbe"),
    _torchvision("wide_resnet101_2", 1, 256, 78.848, "32ee1156"),
    _torchvision("wide_resnet101_2", 2, 232, 82.51, "d733dc28"),
    _timm("resnet26.bt_in1k", 224, 0.875, "bicubic", "apache-2.0", 75.298),
    _timm("resnet50.a1_in1k", 224, 0.95, "bicubic", "apache-2.0", 80.382),
    _timm("resnet50.a1h_in1k", 176, 0.9, "bicubic", "apache-2.0", 79.264),
    _timm("resnet50.a2_in1k", 224, 0.95, "bicubic", "apache-2.0", 79.828),
    _timm("resnet50.a3_in1k", 160, 0.95, "bicubic", "apache-2.0", 75.994),
    _timm("resnet50.b1k_in1k", 224, 0.95, "bicubic", "apache-2.0", 79.564),
    _timm("resnet50.b2k_in1k", 224, 0.95, "bicubic", "apache-2.0", 79.388),
    _timm("resnet50.c1_in1k", 224, 0.95, "bicubic", "apache-2.0", 79.766),
    _timm("resnet50.c2_in1k", 224, 0.95, "bicubic", "apache-2.0", 79.868),
    _timm("resnet50.d_in1k", 224, 0.95, "bicubic", "apache-2.0", 79.904),
    _timm("resnet50.ram_in1k", 224, 0.875, "bicubic", "apache-2.0", 79.034),
    _timm("resnet50.am_in1k", 224, 0.875, "bicubic", "apache-2.0", 79.004),
    _timm("resnet50.ra_in1k", 224, 0.875, "bicubic", "apache-2.0", 78.820),
    _timm("resnet50.bt_in1k", 224, 0.875, "bicubic", "apache-2.0", 78.444),
    _timm("resnet50.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 76.156),
    _timm("resnet50.tv2_in1k", 176, 0.875, "bilinear", "bsd-3-clause", 79.434),
    _timm("resnet50.fb_ssl_yfcc100m_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 79.252),
    _timm("resnet50.fb_swsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 81.146),
    _timm("resnet50.gluon_in1k", 224, 0.875, "bicubic", "apache-2.0", 77.580),
    _timm("resnet101.a1h_in1k", 224, 0.95, "bicubic", "apache-2.0", 81.950),
    _timm("resnet101.a1_in1k", 224, 0.95, "bicubic", "apache-2.0", 81.494),
    _timm("resnet101.a2_in1k", 224, 0.95, "bicubic", "apache-2.0", 81.344),
    _timm("resnet101.a3_in1k", 160, 0.95, "bicubic", "apache-2.0", 77.928),
    _timm("resnet101.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 77.404),
    _timm("resnet101.tv2_in1k", 176, 0.875, "bilinear", "bsd-3-clause", 79.908),
    _timm("resnet101.gluon_in1k", 224, 0.875, "bicubic", "apache-2.0", 79.306),
    _timm("resnet152.a1h_in1k", 224, 0.95, "bicubic", "apache-2.0", 82.818),
    _timm("resnet152.a1_in1k", 224, 0.95, "bicubic", "apache-2.0", 81.998),
    _timm("resnet152.a2_in1k", 224, 0.95, "bicubic", "apache-2.0", 81.764),
    _timm("resnet152.a3_in1k", 160, 0.95, "bicubic", "apache-2.0", 78.896),
    _timm("resnet152.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 78.330),
    _timm("resnet152.tv2_in1k", 176, 0.875, "bilinear", "bsd-3-clause", 80.222),
    _timm("resnet152.gluon_in1k", 224, 0.875, "bicubic", "apache-2.0", 79.712),
    _timm("resnext50_32x4d.a1h_in1k", 224, 0.95, "bicubic", "apache-2.0", 81.140),
    _timm("resnext50_32x4d.a1_in1k", 224, 0.95, "bicubic", "apache-2.0", 80.526),
    _timm("resnext50_32x4d.a2_in1k", 224, 0.95, "bicubic", "apache-2.0", 80.444),
    _timm("resnext50_32x4d.a3_in1k", 160, 0.95, "bicubic", "apache-2.0", 77.732),
    _timm("resnext50_32x4d.ra_in1k", 224, 0.875, "bicubic", "apache-2.0", 79.800),
    _timm("resnext50_32x4d.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 77.632),
    _timm("resnext50_32x4d.tv2_in1k", 176, 0.875, "bilinear", "bsd-3-clause", 79.384),
    _timm(
        "resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 80.316
    ),
    _timm("resnext50_32x4d.fb_swsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 82.162),
    _timm("resnext50_32x4d.gluon_in1k", 224, 0.875, "bicubic", "apache-2.0", 79.354),
    _timm(
        "resnext101_32x4d.fb_ssl_yfcc100m_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 80.936
    ),
    _timm("resnext101_32x4d.fb_swsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 83.268),
    _timm("resnext101_32x4d.gluon_in1k", 224, 0.875, "bicubic", "apache-2.0", 80.336),
    _timm("resnext101_32x8d.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 79.308),
    _timm("resnext101_32x8d.tv2_in1k", 176, 0.875, "bilinear", "bsd-3-clause", 81.990),
    _timm("resnext101_32x8d.fb_wsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 82.720),
    _timm(
        "resnext101_32x8d.fb_ssl_yfcc100m_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 81.620
    ),
    _timm("resnext101_32x8d.fb_swsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 84.276),
    _timm("resnext101_32x16d.fb_wsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 84.166),
    _timm(
        "resnext101_32x16d.fb_ssl_yfcc100m_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 81.856
    ),
    _timm("resnext101_32x16d.fb_swsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 83.340),
    _timm("resnext101_32x32d.fb_wsl_ig1b_ft_in1k", 224, 0.875, "bilinear", "cc-by-nc-4.0", 85.090),
    _timm("resnext101_64x4d.c1_in1k", 224, 0.95, "bicubic", "apache-2.0", 82.446),
    _timm("resnext101_64x4d.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 82.978),
    _timm("resnext101_64x4d.gluon_in1k", 224, 0.875, "bicubic", "apache-2.0", 80.640),
    _timm("wide_resnet50_2.racm_in1k", 224, 0.875, "bicubic", "apache-2.0", 81.466),
    _timm("wide_resnet50_2.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 78.486),
    _timm("wide_resnet50_2.tv2_in1k", 176, 0.875, "bilinear", "bsd-3-clause", 80.442),
    _timm("wide_resnet101_2.tv_in1k", 224, 0.875, "bilinear", "bsd-3-clause", 78.862),
    _timm("wide_resnet101_2.tv2_in1k", 176, 0.875, "bilinear", "bsd-3-clause", 80.494),
)

#: Every published row by its SPEC.
PUBLISHED: Mapping[str, Published] = MappingProxyType({row.spec: row for row in _ROWS})
assert len(PUBLISHED) == len(_ROWS)
