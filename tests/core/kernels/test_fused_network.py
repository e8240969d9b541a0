from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from fakes.interpreted import Interpreted
from resnext.images.synthetic import seeded_pixels
from resnext.kernels.network import First, fused_network
from resnext.kernels.tiles import ConvChoice, ConvShape
from resnext.network.config import ResNeXtConfig, variant
from resnext.network.model import ResNeXt
from resnext.weights.conditioned import seeded_state_dict
from resnext.weights.spec import load_model, load_weights

DTYPES = (torch.float16, torch.bfloat16)
#: Largest error of the logits' norm, relative. Measured: see below.
GATES = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
#: All four stages and the stem of ImageNet; groups of 4, 8, 16 and 32 channels.
SMALL = ResNeXtConfig(
    (2, 1, 1, 1), cardinality=16, bottleneck_width=4, input_size=(40, 56), num_classes=10,
    stem_channels=16,
)  # fmt: skip


class Tall(First):
    """The first choice of tiles with many rows: fewer programs to interpret."""

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """With a strip of eight rows."""
        del shape
        return choices[0]._replace(tile=choices[0].tile._replace(rows=8))


def network(config: ResNeXtConfig) -> ResNeXt:
    model = ResNeXt(config)
    model.load_state_dict(seeded_state_dict(config, 0))
    return model.eval()


def relative_error(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).norm() / exact.norm())


def logits_error(model: ResNeXt, images: Tensor, dtype: torch.dtype) -> float:
    """Of interpreted kernels, against the network itself in float64."""
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(images.double())
        fused = fused_network(model, len(images), dtype, Tall(), Interpreted())
        assert fused.plain == []
        return relative_error(fused(images.to(dtype)), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_network_of_four_stages_is_the_float64_network(dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, *SMALL.input_size, generator=torch.Generator().manual_seed(1))
    error = logits_error(network(SMALL), images, dtype)
    print(error)
    assert error < GATES[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_shipped_digits_network_is_the_float64_network(dtype: torch.dtype) -> None:
    weights = load_weights("digits")
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 4))
    error = logits_error(load_model(weights), torch.as_tensor(images), dtype)
    print(error)
    assert error < GATES[dtype]


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resnext50_is_the_float64_network(dtype: torch.dtype) -> None:
    config = variant("resnext50_32x4d")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    error = logits_error(network(config), images, dtype)
    print(error)
    assert error < GATES[dtype]
