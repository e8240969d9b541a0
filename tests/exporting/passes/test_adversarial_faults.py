"""Faults that seeded images hardly show: adversarial inputs, and a gate that is a small multiple of
what float32 loses, catch them, in the export's check and in the parity command alike.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from exported import export_onnx, seeded_resnext50
from resnext.artifact.manifest import BatchRange
from resnext.errors import GateFailed
from resnext.network.model import ResNeXt
from resnext.precision import Precision
from resnext.verify.check import check
from resnext.weights.spec import load_model, load_weights
from resnext_export.convert import onnx_from_torch


class Around(nn.Module):
    """Alters the logits of a network, seeing its input."""

    def __init__(self, model: nn.Module, alter: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.alter = model, alter

    def forward(self, images: Tensor) -> Tensor:
        return self.alter(images, self.model(images))


class Clipped(nn.Module):
    """A batch norm whose outputs are cut at 100 on both sides."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        clipped: Tensor = self.norm(x).clamp(-100, 100)
        return clipped


def logits_clipped_at_50(model: ResNeXt) -> nn.Module:
    return Around(model, lambda _, logits: logits.clamp(-50, 50))


def activations_clipped_at_100(model: ResNeXt) -> nn.Module:
    model.add_module("bn1", Clipped(model.bn1))
    return model


def nan_for_one_class_if_the_input_is_large(model: ResNeXt) -> nn.Module:
    def poison(images: Tensor, logits: Tensor) -> Tensor:
        large = images.amax(dim=(1, 2, 3)) > 20
        third = torch.arange(logits.shape[1]) == 3
        return torch.where(large[:, None] & third, logits * torch.nan, logits)

    return Around(model, poison)


def sparse_inputs_are_off(model: ResNeXt) -> nn.Module:
    """An image that is dark but for a few pixels is scaled by 1.001."""

    def scale(images: Tensor, logits: Tensor) -> Tensor:
        dark = images.amin(dim=(1, 2, 3), keepdim=True)
        bright = (images > dark).float().mean(dim=(1, 2, 3))
        return torch.where(((bright > 0) & (bright < 0.05))[:, None], logits * 1.001, logits)

    return Around(model, scale)


def neighbors_leak(model: ResNeXt) -> nn.Module:
    return Around(model, lambda _, logits: logits + 3e-5 * logits.mean(dim=0, keepdim=True))


def one_logit_is_shifted(model: ResNeXt) -> nn.Module:
    def shift(_: Tensor, logits: Tensor) -> Tensor:
        return logits + 3e-4 * (torch.arange(logits.shape[1]) == 2)

    return Around(model, shift)


Plant = Callable[[ResNeXt], nn.Module]
#: Each fault, and what the message names.
FAULTS: dict[Plant, str] = {
    logits_clipped_at_50: "large values",
    activations_clipped_at_100: "large values",
    nan_for_one_class_if_the_input_is_large: "NaN or infinite logits on large values, huge values",
    sparse_inputs_are_off: "on one hot pixel",
    neighbors_leak: "times what its precision costs",
    one_logit_is_shifted: "times what its precision costs",
}


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plant], None]:
    """Give the exporter a faulty model; the reference of the check stays as it is."""

    def planted(fault: Plant) -> None:
        monkeypatch.setattr(
            onnx_from_torch, "load_model", lambda weights: fault(load_model(weights)).eval()
        )

    return planted


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_beyond_seeded_images_is_caught_and_named(
    fault: Plant, plant: Callable[[Plant], None], tmp_path: Path
) -> None:
    plant(fault)
    with pytest.raises(GateFailed, match=FAULTS[fault]):
        export_onnx(load_weights("digits"), tmp_path / "checked")


def test_the_parity_command_catches_it_too(plant: Callable[[Plant], None], tmp_path: Path) -> None:
    weights = load_weights("digits")
    plant(logits_clipped_at_50)
    artifact = export_onnx(weights, tmp_path / "unchecked", check=False)
    outcome = check(artifact, weights=weights, runtime="ort-cpu", images=14)
    assert not outcome.passed
    assert "large values" in "; ".join(outcome.failures)
    over = [kind.name for kind in outcome.inputs if (kind.max_error or 0) > kind.allowed]
    assert over == ["large values", "huge values"]


def test_a_file_that_takes_pixels_is_compared_on_those_inputs_that_are_pixels(
    tmp_path: Path,
) -> None:
    weights = load_weights("digits")
    sound = export_onnx(weights, tmp_path / "sound", bake_preprocessing=True)
    outcome = check(sound, weights=weights, images=7)
    assert outcome.passed
    names = [kind.name for kind in outcome.inputs]
    assert names[:2] == ["seeded", "zeros"]
    assert "denormals" not in names


def test_a_fixed_batch_is_filled_for_adversarial_inputs(tmp_path: Path) -> None:
    weights = load_weights("digits")
    artifact = export_onnx(weights, tmp_path / "fixed", batch=BatchRange.parse("16"))
    outcome = check(artifact, weights=weights, images=16)
    assert outcome.passed
    assert len(outcome.inputs) == 11


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", [0, 20, -1])
def test_a_weight_of_resnext50_that_is_off_by_two_percent_is_caught(
    layer: int, plant: Callable[[Plant], None], tmp_path: Path
) -> None:
    """The largest weight of a convolution."""

    def stretched(model: ResNeXt) -> nn.Module:
        convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        weight = convs[layer].weight.view(-1)
        weight[weight.abs().argmax()] *= 1.02
        return model

    plant(stretched)
    with pytest.raises(GateFailed, match="times what its precision costs"):
        export_onnx(seeded_resnext50(), tmp_path / "artifact")


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param("digits"),
        pytest.param("seeded", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_sound_files_use_at_most_half_of_what_the_gate_allows(
    weights: str, precision: Precision, tmp_path: Path
) -> None:
    loaded = load_weights(weights, "resnext11_8x4d_fashion" if weights == "seeded" else None)
    artifact = export_onnx(loaded, tmp_path / "artifact", precision=precision)
    outcome = check(artifact, weights=loaded)
    assert outcome.passed
    used = {limit.name: limit.actual / limit.allowed for limit in outcome.limits}
    assert used["error_ratio"] < 0.5
    assert used["mean_ratio"] < 0.5
