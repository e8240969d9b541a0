from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fakes.interpreted import Fault, Interpreted
from resnext.images.synthetic import seeded_pixels
from resnext.kernels.network import First, GroupedConv3x3, Kernels, Pointwise, fused_network
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvChoice, ConvShape, ProductShape
from resnext.network.config import VARIANTS, ResNeXtConfig, variant
from resnext.network.forms import fold_batch_norms
from resnext.network.model import ResNeXt
from resnext.verify.parity import Parity, compare
from resnext.weights.conditioned import seeded_state_dict
from resnext.weights.spec import load_model, load_weights

PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}
#: All four stages and the stem of ImageNet; groups of 4, 8, 16 and 32 channels.
SMALL = ResNeXtConfig(
    (2, 1, 1, 1), cardinality=8, bottleneck_width=4, input_size=(32, 40), num_classes=10,
    stem_channels=16,
)  # fmt: skip


class Large(First):
    """Large tiles: few programs, which are interpreted sooner."""

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """The first with a strip of eight rows."""
        del shape
        return choices[0]._replace(tile=choices[0].tile._replace(rows=8))

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        """The same for all."""
        del shape, choices
        return ProductTile(128, 128, 64, 4, 1)


def network(config: ResNeXtConfig) -> ResNeXt:
    model = ResNeXt(config)
    model.load_state_dict(seeded_state_dict(config, 0))
    return model.eval()


def proven(model: ResNeXt, images: Tensor, dtype: torch.dtype, kernels: Kernels) -> Parity:
    """The network on the kernels against itself in float64, beside eager PyTorch in ``dtype``."""
    images = images.to(dtype)
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(images.double())
        eager = copy.deepcopy(model).to(dtype)(images)
        fused = fused_network(model, len(images), dtype, Large(), kernels)
        assert fused.plain == []
        logits = fused(images)
    assert logits.dtype == dtype
    return compare(
        exact.numpy(),
        logits.float().numpy(),
        precision=PRECISIONS[dtype],
        baseline=eager.float().numpy(),
    )


def pictures(config: ResNeXtConfig, count: int) -> Tensor:
    return torch.from_numpy(seeded_pixels(config, count)).permute(0, 3, 1, 2) / 64 - 2


every_dtype = pytest.mark.parametrize("dtype", PRECISIONS, ids=str)


@every_dtype
def test_a_network_of_four_stages_is_the_float64_network(dtype: torch.dtype) -> None:
    parity = proven(network(SMALL), pictures(SMALL, 2), dtype, Interpreted())
    assert parity.passed, parity


@every_dtype
def test_the_shipped_digits_network_is_the_float64_network(dtype: torch.dtype) -> None:
    weights = load_weights("digits")
    images = torch.as_tensor(weights.preprocessing.normalize(seeded_pixels(weights.config, 4)))
    parity = proven(load_model(weights), images, dtype, Interpreted())
    assert parity.passed, parity


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@every_dtype
def test_resnext50_is_the_float64_network(dtype: torch.dtype) -> None:
    config = variant("resnext50_32x4d")
    parity = proven(network(config), pictures(config, 1), dtype, Interpreted())
    assert parity.passed, parity


@pytest.mark.parametrize(
    "fault",
    [
        Fault("grouped_conv3x3", "current = following +", "current = zero +"),
        Fault("pointwise", "if PROJECTED > 0:", "if PROJECTED > 1000:"),
    ],
    ids=str,
)
def test_a_faulty_kernel_is_not_the_float64_network(fault: Fault, tmp_path: Path) -> None:
    model = load_model(load_weights("digits"))
    twins = Interpreted(fault, tmp_path)
    assert not proven(model, pictures(model.config, 1), torch.float16, twins).passed


#: Stages whose groups are wider than the kernel takes.
PLAIN = {
    "resnet50": ("layer2", "layer3", "layer4"),
    "resnet101": ("layer2", "layer3", "layer4"),
    "resnext29_8x64d": ("layer2", "layer3"),
    "resnext29_16x64d": ("layer2", "layer3"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_built_or_says_what_stays_plain(name: str) -> None:
    # Blocks beyond a stage's second are like it.
    config = VARIANTS[name]
    config = replace(config, depths=tuple(min(depth, 2) for depth in config.depths))
    with torch.device("meta"):
        model = ResNeXt(config).eval()
    fused = fused_network(model, 8, torch.float16)
    names = [layer for layer, _ in model.named_modules() if layer.endswith(".conv2")]
    plain = [layer for layer in names if layer.startswith(PLAIN.get(name, ()))]
    assert fused.plain == plain
    modules = dict(fused.named_modules())
    for layer in set(names) - set(plain):
        assert isinstance(modules[layer], GroupedConv3x3)
    for layer in names:
        for product in ("conv1", "conv3"):
            assert isinstance(modules[layer.replace("conv2", product)], Pointwise)


def test_a_wide_group_on_pytorch_s_own_kernel_is_the_float64_network() -> None:
    config = ResNeXtConfig(
        (1, 1), 1, 64, input_size=(8, 8), num_classes=10, stem="small", stem_channels=8
    )
    images = pictures(config, 2)
    model = network(config)
    with torch.inference_mode():
        fused = fused_network(model, 2, torch.float16, Large(), Interpreted())
        assert fused.plain == ["layer2.0.conv2"]
        exact = copy.deepcopy(model).double()(images.double())
        error = (fused(images.half()).double() - exact).norm() / exact.norm()
    assert error < 5e-3


@every_dtype
def test_biases_are_not_rounded_to_the_kernels_type(dtype: torch.dtype) -> None:
    folded = fold_batch_norms(network(SMALL))
    fused = fused_network(folded, 2, dtype)
    block, ours = folded.stages[1].get_submodule("0"), fused.get_submodule("layer2.0")
    for name in ("conv1", "conv2"):
        bias = block.get_parameter(f"{name}.bias")
        assert torch.equal(ours.get_buffer(f"{name}.bias"), bias), name
    both = block.get_parameter("conv3.bias") + block.get_parameter("downsample.0.bias")
    assert torch.equal(ours.get_buffer("conv3.bias"), both)
    assert torch.equal(fused.get_buffer("bias"), folded.get_parameter("conv1.bias"))


@pytest.mark.parametrize("folded", [False, True])
def test_the_network_that_is_given_is_left_as_it_is(folded: bool) -> None:
    model = network(SMALL)
    model = fold_batch_norms(model) if folded else model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shown = repr(model)
    fused = fused_network(model, 2, torch.float16)
    after = model.state_dict()
    assert repr(model) == shown
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(after[name].dtype == value.dtype for name, value in before.items())
    ours = {value.untyped_storage().data_ptr() for value in after.values()}
    theirs = {value.untyped_storage().data_ptr() for value in fused.state_dict().values()}
    assert not ours & theirs, "memory is shared"
