from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnext.network import layers as facts
from resnext.network.config import VARIANTS
from resnext.network.model import ResNeXt
from resnext.network.published import FACTS

#: Xie et al., Table 1: output size and template of conv2 to conv5.
TABLE_1 = {
    "resnet50": [
        "56x56: [1x1, 64; 3x3, 64; 1x1, 256] x 3",
        "28x28: [1x1, 128; 3x3, 128; 1x1, 512] x 4",
        "14x14: [1x1, 256; 3x3, 256; 1x1, 1024] x 6",
        "7x7: [1x1, 512; 3x3, 512; 1x1, 2048] x 3",
    ],
    "resnext50_32x4d": [
        "56x56: [1x1, 128; 3x3, 128, C=32; 1x1, 256] x 3",
        "28x28: [1x1, 256; 3x3, 256, C=32; 1x1, 512] x 4",
        "14x14: [1x1, 512; 3x3, 512, C=32; 1x1, 1024] x 6",
        "7x7: [1x1, 1024; 3x3, 1024, C=32; 1x1, 2048] x 3",
    ],
}


@cache
def on_meta(name: str) -> ResNeXt:
    with torch.device("meta"):
        return ResNeXt(VARIANTS[name]).eval()


def test_every_variant_has_its_facts_and_nothing_else_has() -> None:
    assert list(FACTS) == list(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_counted_parameters_are_those_of_the_table_and_of_the_modules(name: str) -> None:
    counted = facts.parameters(VARIANTS[name])
    assert counted == FACTS[name].parameters
    assert counted == sum(parameter.numel() for parameter in on_meta(name).parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_counted_macs_are_those_of_the_table_and_of_the_flop_counter(name: str) -> None:
    config = VARIANTS[name]
    counted = facts.macs(config)
    assert round(counted / 1e9, 3) == FACTS[name].gmacs
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        on_meta(name)(torch.zeros(1, config.in_channels, *config.input_size, device="meta"))
    assert counted * 2 == counter.get_total_flops()


@pytest.mark.parametrize("name", VARIANTS)
def test_layers_are_the_weighted_modules_in_the_order_in_which_data_meets_them(name: str) -> None:
    model, config = on_meta(name), VARIANTS[name]
    met: list[str] = []
    sizes: dict[str, tuple[int, ...]] = {}
    handles = []
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def hook(
                _module: nn.Module, _args: object, out: torch.Tensor, name: str = module_name
            ) -> None:
                met.append(name)
                sizes[name] = tuple(out.shape[2:]) or (1, 1)

            handles.append(module.register_forward_hook(hook))
    model(torch.zeros(1, config.in_channels, *config.input_size, device="meta"))
    for handle in handles:
        handle.remove()
    layers = list(facts.layers(config))
    # The module computes its shortcut before the branch; the table lists it after.
    assert sorted(layer.name for layer in layers) == sorted(met)
    assert [layer.name for layer in layers if "downsample" not in layer.name] == [
        name for name in met if "downsample" not in name
    ]
    parameters = dict(model.named_parameters())
    for layer in layers:
        assert layer.out_size == sizes[layer.name], layer.name
        weight = parameters[f"{layer.name}.weight"]
        assert layer.weights == weight.numel(), layer.name
        assert weight.shape[:2] == (layer.outputs, layer.inputs // layer.groups), layer.name
        assert (f"{layer.name}.bias" in parameters) == layer.has_bias, layer.name
    assert sum(layer.weights for layer in layers) == sum(
        value.numel() for value in parameters.values() if value.ndim > 1
    )


@pytest.mark.parametrize("name", TABLE_1)
def test_stage_templates_are_the_papers_table_1(name: str) -> None:
    assert facts.stage_templates(VARIANTS[name]) == TABLE_1[name]


def test_parameters_and_macs_are_those_that_the_papers_table_1_prints() -> None:
    # The paper cuts parameters after the first decimal (25.56 M is printed as 25.5) and rounds
    # multiply-accumulates.
    printed = {"resnet50": (25.5, 4.1), "resnext50_32x4d": (25.0, 4.2)}
    for name, (millions, billions) in printed.items():
        assert facts.parameters(VARIANTS[name]) // 100_000 / 10 == millions
        assert round(facts.macs(VARIANTS[name]) / 1e9, 1) == billions
        assert f"{millions} M, {billions} G" in FACTS[name].printed


def test_the_grouped_network_costs_what_the_plain_one_costs() -> None:
    plain, grouped = VARIANTS["resnet50"], VARIANTS["resnext50_32x4d"]
    assert facts.parameters(grouped) == pytest.approx(facts.parameters(plain), rel=0.05)
    assert facts.macs(grouped) == pytest.approx(facts.macs(plain), rel=0.05)


@pytest.mark.parametrize("size", [(33, 47), (225, 224), (32, 95)])
def test_odd_input_sizes_are_counted_as_the_modules_shrink_them(size: tuple[int, int]) -> None:
    import dataclasses

    config = dataclasses.replace(VARIANTS["resnext50_32x4d"], input_size=size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        on_meta("resnext50_32x4d")(torch.zeros(1, 3, *size, device="meta"))
    assert facts.macs(config) * 2 == counter.get_total_flops()
