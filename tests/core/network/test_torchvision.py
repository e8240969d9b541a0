"""The reference must be torchvision's network: names, shapes, order and outputs.

data/torchvision.json was written by a run of torchvision 0.29.2 itself: its state dicts' names and
shapes, and its float64 logits for this project's seeded weights and images. timm 1.0.31 gave the
same logits, to the last bit.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext.images.synthetic import seeded_pixels
from resnext.network.config import VARIANTS
from resnext.network.model import ResNeXt
from resnext.verify.eager import reference_logits
from resnext.weights.spec import load_weights

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "torchvision.json").read_text()
)
MODELS = [name for name in GOLDEN if name in VARIANTS]


def names_and_shapes(model: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {
            name: list(value.shape) for name, value in ResNeXt(VARIANTS[model]).state_dict().items()
        }


def test_golden_data_covers_the_models_that_torchvision_has() -> None:
    assert set(MODELS) == {
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
    }


@pytest.mark.parametrize("model", MODELS)
def test_state_dict_has_torchvisions_names_shapes_and_order(model: str) -> None:
    ours = names_and_shapes(model)
    assert len(ours) == GOLDEN[model]["count"]
    assert hashlib.sha256(json.dumps(ours).encode()).hexdigest() == GOLDEN[model]["sha256"]


def test_resnext50_tensors_are_torchvisions_one_by_one() -> None:
    ours = [
        f"{name} {'x'.join(map(str, shape))}"
        for name, shape in names_and_shapes("resnext50_32x4d").items()
    ]
    assert ours == GOLDEN["resnext50_32x4d"]["tensors"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        "resnet50",
        "resnext50_32x4d",
        pytest.param("resnext101_64x4d", marks=pytest.mark.exhaustive),
    ],
)
def test_logits_are_torchvisions(model: str) -> None:
    weights = load_weights("seeded", model)
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 2))
    logits = reference_logits(weights, images)
    np.testing.assert_allclose(logits[:, :8], GOLDEN[model]["logits"], rtol=0, atol=1e-6)
