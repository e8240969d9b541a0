"""A network of torchvision's or timm's own code and the artifact made from its state dict compute
the same logits, in every format that runs on a CPU.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fakes.model_zoos import timm, torchvision
from resnext.artifact.files import Artifact
from resnext.network.config import VARIANTS, ResNeXtConfig
from resnext.runtimes.front import open_session
from resnext.weights.conditioned import seeded_state_dict
from resnext_export import export

#: Largest difference of logits, relative to their RMS.
ALLOWED = 1e-5
FORMATS = ("onnx", "openvino", "pt2")
SMALL = ResNeXtConfig((1, 2, 1, 1), 8, 4, (64, 64), num_classes=7)


def torchvision_resnext(depths: tuple[int, ...], groups: int, classes: int) -> torch.nn.Module:
    torchvision()
    from torchvision.models.resnet import Bottleneck, ResNet

    network: torch.nn.Module = ResNet(
        Bottleneck, list(depths), num_classes=classes, groups=groups, width_per_group=4
    )
    return network


def timm_resnext(depths: tuple[int, ...], groups: int, classes: int) -> torch.nn.Module:
    timm()
    from timm.models.resnet import Bottleneck, ResNet

    block: Any = Bottleneck
    network: torch.nn.Module = ResNet(
        block, depths, num_classes=classes, cardinality=groups, base_width=4
    )
    return network


ZOOS = {"torchvision": torchvision_resnext, "timm": timm_resnext}


def conditioned(zoo: str, config: ResNeXtConfig) -> torch.nn.Module:
    """The zoo's network with weights that make logits differ from image to image."""
    network = ZOOS[zoo](config.depths, config.cardinality, config.num_classes)
    network.load_state_dict(seeded_state_dict(config, 3))
    return network.eval()


def difference(artifact: Artifact, network: torch.nn.Module, size: int) -> float:
    """Largest difference between the artifact's logits and the network's in float64, relative to
    the RMS of the latter.
    """
    images = np.random.default_rng(0).standard_normal((3, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        right: NDArray[Any] = network.double()(torch.from_numpy(images).double()).numpy()
    with open_session(artifact) as session:
        rows = [session(images[i : i + 1]) for i in range(3)]
    return float(np.abs(np.concatenate(rows) - right).max() / np.sqrt((right**2).mean()))


def exported(
    network: torch.nn.Module, folder: Path, kind: str, size: int, **fields: Any
) -> Artifact:
    torch.save(network.state_dict(), folder / "network.pth")
    return export(
        folder / "network.pth",
        folder / kind,
        format=kind,
        batch="1" if kind == "pt2" else None,
        input_size=f"{size}x{size}",
        **fields,
    )


@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("zoo", ZOOS)
def test_a_small_network_gives_the_same_logits(zoo: str, kind: str, tmp_path: Path) -> None:
    network = conditioned(zoo, SMALL)
    assert difference(exported(network, tmp_path, kind, 64), network, 64) < ALLOWED


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("zoo", ZOOS)
def test_resnext50_gives_the_same_logits(zoo: str, kind: str, tmp_path: Path) -> None:
    network = conditioned(zoo, VARIANTS["resnext50_32x4d"])
    assert difference(exported(network, tmp_path, kind, 224), network, 224) < ALLOWED


def test_another_network_is_told_apart(tmp_path: Path) -> None:
    """The measure sees one weight of a residual branch changed by 2 %."""
    network = conditioned("torchvision", SMALL)
    artifact = exported(network, tmp_path, "onnx", 64)
    weight = network.get_parameter("layer4.0.conv2.weight")
    with torch.no_grad():
        weight[3].mul_(1.02)
    assert difference(artifact, network, 64) > 10 * ALLOWED
