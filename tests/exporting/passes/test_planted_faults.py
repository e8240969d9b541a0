"""Every fault is planted into a real export of real weights, and must be caught by the check of the
written bytes.

Each is a mistake that real exports have shipped with. A fault takes the correct model and gives a
module with the same inputs and outputs that is wrong. None changes a shape or a dtype, so only a
comparison of values can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exported import export_onnx, seeded_resnext50
from resnext.artifact.files import read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import GateFailed
from resnext.network.model import Bottleneck, ResNeXt
from resnext.verify.check import check
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_export.convert import onnx_from_torch

Plant = Callable[[ResNeXt, Weights], nn.Module]


def groups_rotated_by_one(model: ResNeXt, _weights: Weights) -> nn.Module:
    """One grouped convolution takes each group's filters from its neighbor."""
    conv = _block(model, -1).conv2
    conv.weight.copy_(torch.roll(conv.weight, conv.out_channels // conv.groups, dims=0))
    return model


def batch_norm_epsilon(model: ResNeXt, _weights: Weights) -> nn.Module:
    """Epsilon 1e-2 instead of 1e-5."""
    for norm in _norms(model):
        norm.eps = 1e-2
    return model


def input_not_normalized(model: ResNeXt, weights: Weights) -> nn.Module:
    """The network is given pixels scaled to 0..1, mean and standard deviation forgotten."""
    mean = torch.tensor(weights.preprocessing.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(weights.preprocessing.std).reshape(1, -1, 1, 1)
    return Before(lambda images: images * std + mean, model)


def height_and_width_swapped(model: ResNeXt, _weights: Weights) -> nn.Module:
    """Rows are read as columns."""
    return Before(lambda images: images.transpose(2, 3), model)


def train_mode_batch_norm(model: ResNeXt, _weights: Weights) -> nn.Module:
    """Statistics of the batch instead of the stored ones: outputs depend on what else is in the
    batch.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, BatchStatistics(child))
    return model


def one_weight_changed(model: ResNeXt, _weights: Weights) -> nn.Module:
    """One value of one grouped convolution is off by its layer's standard deviation."""
    weight = _block(model, 0).conv2.weight
    weight.view(-1)[weight.numel() // 2] += weight.std()
    return model


def nan_in_last_row(model: ResNeXt, _weights: Weights) -> nn.Module:
    """One logit of the last image is NaN."""
    return After(model, _poison)


#: Tried on the way through the command each time; the others are `exhaustive` there, and all of
#: them in a large network. The check is the same.
_BY_COMMAND = ("groups_rotated_by_one", "nan_in_last_row")
#: Every fault that the parity check must catch.
FAULTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        groups_rotated_by_one,
        batch_norm_epsilon,
        input_not_normalized,
        height_and_width_swapped,
        train_mode_batch_norm,
        one_weight_changed,
        nan_in_last_row,
    )
}


class Before(nn.Module):
    """Alters the input of a network."""

    def __init__(self, alter: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.alter, self.model = alter, model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.alter(images))
        return logits


class After(nn.Module):
    """Alters the output of a network."""

    def __init__(self, model: nn.Module, alter: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.alter, self.model = alter, model

    def forward(self, images: Tensor) -> Tensor:
        return self.alter(self.model(images))


class BatchStatistics(nn.Module):
    """A batch norm that normalizes by the batch it is given, as train mode does."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        scale, shift = (value.reshape(1, -1, 1, 1) for value in (self.norm.weight, self.norm.bias))
        return (x - mean) / torch.sqrt(variance + self.norm.eps) * scale + shift


def _poison(logits: Tensor) -> Tensor:
    last = torch.arange(logits.shape[0]) == logits.shape[0] - 1
    first = torch.arange(logits.shape[1]) == 0
    return torch.where(last[:, None] & first[None, :], logits * torch.nan, logits)


def _block(model: ResNeXt, index: int) -> Bottleneck:
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    return blocks[index]


def _norms(model: ResNeXt) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


SMALL = ["digits", "fashion-mnist", "seeded"]


@contextmanager
def planted(plant: Plant | None) -> Iterator[None]:
    """The exporter gets a faulty model; the reference of the check stays as it is."""

    def load_faulty(weights: Weights) -> torch.nn.Module:
        model = load_model(weights)
        return model if plant is None else plant(model, weights).eval()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_from_torch, "load_model", load_faulty)
        yield


def weights_of(spec: str) -> Weights:
    return load_weights(spec, "resnext11_8x4d_fashion" if spec == "seeded" else None)


@pytest.mark.parametrize("spec", SMALL)
def test_a_correct_export_passes(spec: str, tmp_path: Path) -> None:
    weights = weights_of(spec)
    with planted(None):
        artifact = export_onnx(weights, tmp_path / "artifact")
    assert artifact.manifest.check is not None
    assert check(artifact, weights=weights, runtime="ort-cpu").passed


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "spec", [SMALL[0], *(pytest.param(spec, marks=pytest.mark.exhaustive) for spec in SMALL[1:])]
)
def test_a_fault_is_caught_and_nothing_is_written(spec: str, fault: str, tmp_path: Path) -> None:
    with (
        planted(FAULTS[fault]),
        pytest.raises(GateFailed, match="does not compute what PyTorch computes"),
    ):
        export_onnx(weights_of(spec), tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fault",
    [
        fault if fault in _BY_COMMAND else pytest.param(fault, marks=pytest.mark.exhaustive)
        for fault in FAULTS
    ],
)
def test_a_fault_that_was_exported_unchecked_is_caught_by_the_parity_command(
    fault: str, tmp_path: Path
) -> None:
    weights = load_weights("digits")
    with planted(FAULTS[fault]):
        export_onnx(weights, tmp_path / "artifact", check=False)
    artifact = read_artifact(tmp_path / "artifact")
    assert artifact.manifest.check is None
    outcome = check(artifact, weights=weights, runtime="ort-cpu")
    assert not outcome.passed
    assert outcome.artifact_sha256 == artifact.manifest.file_sha256


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_in_seeded_resnext50(fault: str, tmp_path: Path) -> None:
    weights = seeded_resnext50()
    with (
        planted(FAULTS[fault]),
        pytest.raises(GateFailed, match="does not compute what PyTorch computes"),
    ):
        export_onnx(weights, tmp_path / "artifact")


def test_batch_statistics_are_caught_at_a_single_fixed_batch_too(tmp_path: Path) -> None:
    with planted(FAULTS["train_mode_batch_norm"]), pytest.raises(GateFailed):
        export_onnx(load_weights("digits"), tmp_path / "artifact", batch=BatchRange.parse("4"))
