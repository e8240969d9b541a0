"""The table of published weights, against torchvision's and timm's own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes.model_zoos import timm, torchvision
from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnext.network.config import ResNeXtConfig
from resnext.network.model import ResNeXt
from resnext.weights.hub.imagenet import imagenet_class_names
from resnext.weights.hub.published import ARCHITECTURES, PUBLISHED, Published

#: Top-1 of ``results/results-imagenet.csv`` in timm's repository at commit 4e5207c, for the input
#: size and crop of each of its weights of this family.
RESULTS = Path(__file__).parents[1] / "data" / "timm-results.csv"
#: What a builder says about a network that `ResNeXtConfig` can express.
EXPRESSIBLE = {"layers", "cardinality", "base_width", "groups", "width_per_group", "block"}


def of(publisher: str) -> dict[str, Published]:
    return {
        spec.removeprefix(publisher): row
        for spec, row in PUBLISHED.items()
        if spec.startswith(publisher)
    }


def config_of(arguments: dict[str, Any], bottleneck: type) -> ResNeXtConfig | None:
    """The network that a builder's arguments describe, or None if it is not of the family."""
    if arguments["block"] is not bottleneck or not set(arguments) <= EXPRESSIBLE:
        return None
    return ResNeXtConfig(
        tuple(arguments["layers"]),
        arguments.get("cardinality", arguments.get("groups", 1)),
        arguments.get("base_width", arguments.get("width_per_group", 64)),
    )


@pytest.fixture(scope="module")
def torchvision_family() -> dict[str, tuple[ResNeXtConfig, Any]]:
    """Configuration and weights of each network of torchvision's that we can express."""
    models: Any = torchvision().models
    resnet: Any = models.resnet

    def arguments(block: type, layers: list[int], *_: Any, **other: Any) -> dict[str, Any]:
        return {"block": block, "layers": layers, **other}

    family = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "_resnet", arguments)
        for name in models.list_models(module=models):
            builder = models.get_model_builder(name)
            if builder.__module__ == resnet.__name__:
                config = config_of(builder(), resnet.Bottleneck)
                if config is not None:
                    family[name] = (config, models.get_model_weights(name))
    return family


@pytest.fixture(scope="module")
def timm_family() -> dict[str, ResNeXtConfig]:
    """Configuration of each network of timm's that we can express."""
    zoo = timm()
    resnet = zoo.models.resnet
    family = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "_create_resnet", lambda *_, **arguments: arguments)
        for name in zoo.list_models(module="resnet"):
            config = config_of(zoo.model_entrypoint(name)(), resnet.Bottleneck)
            if config is not None:
                family[name] = config
    return family


def test_no_weights_of_torchvisions_are_missing_and_none_are_invented(
    torchvision_family: dict[str, tuple[ResNeXtConfig, Any]],
) -> None:
    published = {
        f"{name}/{weights.name}"
        for name, (_, enum) in torchvision_family.items()
        for weights in enum
    }
    assert set(of("torchvision:")) == published


def test_each_row_of_torchvisions_is_as_torchvision_says(
    torchvision_family: dict[str, tuple[ResNeXtConfig, Any]],
) -> None:
    for name, row in of("torchvision:").items():
        model, _, tag = name.partition("/")
        config, enum = torchvision_family[model]
        weights = enum[tag]
        transform = weights.transforms()
        assert ARCHITECTURES[row.model] == config
        assert row.model == model
        assert row.config == config
        assert row.source == weights.url
        assert row.source.endswith(f"-{row.sha256}.pth")
        assert row.top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert (row.preprocessing.resize, *row.preprocessing.crop) == (
            *transform.resize_size,
            *transform.crop_size * 2,
        )
        assert row.preprocessing.interpolation == transform.interpolation.value
        assert row.preprocessing.mean == tuple(transform.mean)
        assert row.preprocessing.std == tuple(transform.std)


def test_the_last_row_of_a_network_is_torchvisions_default(
    torchvision_family: dict[str, tuple[ResNeXtConfig, Any]],
) -> None:
    last = {row.model: name.partition("/")[2] for name, row in of("torchvision:").items()}
    assert last == {name: enum.DEFAULT.name for name, (_, enum) in torchvision_family.items()}


def test_no_weights_of_timms_are_missing_and_none_are_invented(
    timm_family: dict[str, ResNeXtConfig],
) -> None:
    theirs = timm().models.get_pretrained_cfg
    published = {
        name
        for name in timm().list_pretrained()
        if name.partition(".")[0] in timm_family and theirs(name).num_classes
    }
    assert set(of("timm:")) == published


def test_each_row_of_timms_is_as_timm_says(timm_family: dict[str, ResNeXtConfig]) -> None:
    data = timm().data
    for name, row in of("timm:").items():
        theirs = timm().models.get_pretrained_cfg(name)
        size = theirs.input_size[1]
        assert ARCHITECTURES[row.model] == timm_family[name.partition(".")[0]]
        assert row.source == theirs.hf_hub_id
        assert row.license == theirs.license
        assert theirs.num_classes == 1000
        resize, crop, *_ = data.create_transform(
            **data.resolve_data_config(pretrained_cfg=theirs.to_dict())
        ).transforms
        assert row.preprocessing.resize == resize.size
        assert row.preprocessing.crop == tuple(crop.size) == (size, size)
        assert row.preprocessing.interpolation == resize.interpolation.value
        assert row.preprocessing.mean == theirs.mean == IMAGENET_MEAN
        assert row.preprocessing.std == theirs.std == IMAGENET_STD


def test_the_first_row_of_a_network_is_timms_default() -> None:
    theirs = timm().models.get_pretrained_cfg
    first: dict[str, str] = {}
    for row in of("timm:").values():
        first.setdefault(row.model, row.spec.partition(".")[2])
    assert first == {name: theirs(name).tag for name in first}


def test_timms_top1_is_the_one_of_the_rows_preprocessing() -> None:
    with RESULTS.open(newline="") as file:
        results = {
            (line["model"], int(line["img_size"]), float(line["crop_pct"])): float(line["top1"])
            for line in csv.DictReader(file)
        }
    assert len(results) == len(of("timm:"))
    for name, row in of("timm:").items():
        [top1] = [
            top1
            for (model, size, crop_pct), top1 in results.items()
            if model == name and int(size / crop_pct) == row.preprocessing.resize
        ]
        assert row.top1 == top1


def test_a_license_without_commercial_use_is_seen() -> None:
    restricted = {row.license for row in PUBLISHED.values() if not row.commercial}
    assert restricted == {"cc-by-nc-4.0"}
    assert {row.license for row in PUBLISHED.values() if row.commercial} == {
        "apache-2.0",
        "bsd-3-clause",
    }


def test_parameters_have_the_names_and_shapes_of_torchvisions() -> None:
    models: Any = torchvision().models
    name = "wide_resnet50_2"
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None).state_dict()
        ours = ResNeXt(ARCHITECTURES[name]).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


def test_the_class_names_are_torchvisions(
    torchvision_family: dict[str, tuple[ResNeXtConfig, Any]],
) -> None:
    assert len(imagenet_class_names()) == 1000
    for _, enum in torchvision_family.values():
        for weights in enum:
            assert imagenet_class_names() == tuple(weights.meta["categories"])
