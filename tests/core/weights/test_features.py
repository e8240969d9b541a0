"""Every network of torchvision and timm is inferred right, or refused by a feature."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes.model_zoos import timm, torchvision
from resnext.errors import BadWeights
from resnext.network.config import VARIANTS, ResNeXtConfig
from resnext.network.model import ResNeXt
from resnext.weights.config_from_shapes import config_from_shapes
from resnext.weights.features import FEATURES, refuse_features
from resnext.weights.spec import Weights, load_weights

#: Files of timm with networks that are called ResNet or ResNeXt, or look like one.
_FAMILIES = {
    *("resnet", "senet", "resnest", "res2net", "sknet", "resnetv2", "byobnet", "byoanet"),
    *("regnet", "nfnet", "tresnet", "cspnet", "dla"),
}
#: Pooling that no tensor shows; `refuse_declared` knows the names.
_NOT_SHOWN = {"resnetaa50", "resnetblur50"}

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(library: str, name: str) -> tuple[Shapes, Any]:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            model = timm().create_model(name)
        else:
            model = torchvision().models.get_model(name, weights=None)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}, model


def judged(shapes: Shapes) -> ResNeXtConfig | str:
    """The configuration, or why there is none."""
    try:
        refuse_features(list(shapes), Path("w"))
        return config_from_shapes(shapes)
    except (BadWeights, ValueError) as exc:
        return str(exc)


def check(library: str, name: str) -> ResNeXtConfig | str:
    shapes, model = shapes_of(library, name)
    verdict = judged(shapes)
    if isinstance(verdict, str):
        assert "missing" not in verdict
        assert "it has" in verdict or verdict == "there is no conv1.weight"
        return verdict
    with torch.device("meta"):
        own = ResNeXt(verdict).state_dict()
    assert {key: tuple(value.shape) for key, value in own.items()} == shapes
    blocks = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert verdict.depths == tuple(len(stage) for stage in blocks)
    convolution = model.layer1[0].conv2
    assert verdict.cardinality == convolution.groups
    assert verdict.bottleneck_width == convolution.weight.shape[1]
    assert verdict.num_classes == model.fc.out_features
    assert model.conv1.kernel_size == (7, 7)
    return verdict


#: Each feature that networks of the two libraries have, by one of them.
REFUSED = {
    "resnet18": "basic blocks",
    "resnet50c": "a deep stem",
    "resnet26d": "shortcuts with average pooling",
    "resnet50_gn": "normalization without running statistics",
    "seresnext50_32x4d": "squeeze and excitation",
    "legacy_seresnext26_32x4d": "squeeze and excitation",
    "ecaresnext26t_32x4d": "efficient channel attention",
    "skresnet50": "selective kernels",
    "resnest14d": "split attention",
    "res2net50_26w_4s": "multi-scale blocks",
    "resnetrs50": "squeeze and excitation",
    "resnetv2_50": "pre-activation blocks",
    "resnext26ts": "another architecture",
    "regnetx_002": "another architecture",
    "nf_resnet26": "another architecture",
}
ACCEPTED = {
    "resnet26": ((2, 2, 2, 2), 1, 64),
    "resnet50": ((3, 4, 6, 3), 1, 64),
    "wide_resnet50_2": ((3, 4, 6, 3), 1, 128),
    "resnext50_32x4d": ((3, 4, 6, 3), 32, 4),
    "resnext101_32x16d": ((3, 4, 23, 3), 32, 16),
    "resnext101_64x4d": ((3, 4, 23, 3), 64, 4),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_feature_that_is_lacking_is_named(name: str) -> None:
    verdict = check("timm", name)
    assert isinstance(verdict, str)
    assert f"it has {REFUSED[name]}" in verdict


@pytest.mark.parametrize("name", ACCEPTED)
def test_networks_of_this_family_are_inferred(name: str) -> None:
    verdict = check("timm", name)
    assert isinstance(verdict, ResNeXtConfig)
    assert (verdict.depths, verdict.cardinality, verdict.bottleneck_width) == ACCEPTED[name]


@pytest.mark.parametrize("name", ["resnext50_32x4d", "densenet121", "googlenet", "resnet34"])
def test_torchvisions_networks_are_judged_too(name: str) -> None:
    assert isinstance(check("torchvision", name), ResNeXtConfig) == (name == "resnext50_32x4d")


def of_timm() -> list[str]:
    registry = timm().models._registry._model_to_module
    return [name for name in timm().list_models() if registry[name] in _FAMILIES]


@pytest.mark.exhaustive
def test_every_network_of_the_two_libraries_is_accepted_or_refused_by_a_feature() -> None:
    names = of_timm()
    assert len(names) > 200
    accepted = {name for name in names if isinstance(check("timm", name), ResNeXtConfig)}
    others = re.compile("rcnn|deeplab|fcos|lraspp|retina|ssd|fcn|regnet|raft")
    models = [name for name in torchvision().models.list_models() if not others.search(name)]
    accepted |= {name for name in models if isinstance(check("torchvision", name), ResNeXtConfig)}
    assert accepted - _NOT_SHOWN == {
        *("resnet26", "resnet50", "resnet101", "resnet152", "resnet200"),
        *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d"),
        *("resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d"),
        "resnext101_64x4d",
        # in float: what PyTorch quantizes is the same network
        *("quantized_resnet50", "quantized_resnext101_32x8d", "quantized_resnext101_64x4d"),
    }


# ---- features by names alone

_PLAIN = tuple(ResNeXt(ResNeXtConfig((1,), 2, 4, (8, 8), 3, 5, "small", 8)).state_dict())


def changed(old: str, new: str) -> tuple[str, ...]:
    return tuple(re.sub(old, new, name) for name in _PLAIN)


#: For each row of the table, names that show it and no earlier row.
BY_NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("quantized weights", (*_PLAIN, "fc._packed_params.dtype")),
    ("LoRA adapters", (*_PLAIN, "layer1.0.conv1.lora_A.weight")),
    ("parametrized weights", (*_PLAIN, "conv1.parametrizations.weight.original0")),
    ("pruning masks", (*_PLAIN, "conv1.weight_mask")),
    ("the head of a detector", (*_PLAIN, "rpn.head.conv.weight")),
    ("the names of Hugging Face", ("embedder.embedder.convolution.weight",)),
    ("the names of TensorFlow", ("resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/weights",)),
    ("the names of Caffe", ("res2a_branch2a.weight", "bn2a_branch2a.weight")),
    ("the names of another implementation", changed("downsample", "shortcut")),
    ("pre-activation blocks", ("stages.0.blocks.0.norm1.weight",)),
    ("another architecture", ("features.0.weight",)),
    ("another architecture", ("stem.conv.weight",)),
    ("efficient channel attention", (*_PLAIN, "layer1.0.eca.conv.weight")),
    ("squeeze and excitation", (*_PLAIN, "layer1.0.se.fc1.weight")),
    ("spatial attention (CBAM)", (*_PLAIN, "layer1.0.cbam.spatial.conv.weight")),
    ("selective kernels", (*_PLAIN, "layer1.0.conv2.paths.0.conv.weight")),
    ("split attention", (*_PLAIN, "layer1.0.conv2.fc1.weight")),
    ("multi-scale blocks", (*_PLAIN, "layer1.0.convs.0.weight")),
    ("attention layers", (*_PLAIN, "attnpool.positional_embedding")),
    ("anti-aliasing filters", (*_PLAIN, "layer1.0.conv3.0.filt")),
    ("basic blocks", tuple(name for name in _PLAIN if "3." not in name)),
    ("shortcuts with average pooling", (*_PLAIN, "layer1.0.downsample.2.weight")),
    ("biases in its convolutions", (*_PLAIN, "layer1.0.conv1.bias")),
    ("a deep stem", (*_PLAIN, "conv1.0.weight")),
    ("a convolution in place of the max pool", (*_PLAIN, "maxpool.0.weight")),
    ("normalization without", tuple(name for name in _PLAIN if "running" not in name)),
    ("no batch norms", tuple(name for name in _PLAIN if "bn" not in name)),
    ("a classifier with another name", changed("fc", "head.fc")),
    ("a classifier of several layers", changed("fc", "fc.1")),
    ("no classifier", tuple(name for name in _PLAIN if "fc" not in name)),
    ("a classifier without a bias", tuple(name for name in _PLAIN if name != "fc.bias")),
)


def test_each_row_of_the_table_is_seen() -> None:
    assert len(BY_NAMES) == len(FEATURES)
    for feature, (start, names) in zip(FEATURES, BY_NAMES, strict=True):
        assert feature.name.startswith(start)
        with pytest.raises(BadWeights) as caught:
            refuse_features(names, Path("w"))
        assert caught.value.message.startswith("w is of a network that this toolkit cannot run")
        assert f"it has {start}" in caught.value.message
        assert caught.value.hint == (
            feature.remedy or "export it with the library that it comes from"
        )


def test_a_plain_network_has_no_feature() -> None:
    refuse_features(_PLAIN, Path("w"))


def test_names_are_no_patterns_and_one_line(tmp_path: Path) -> None:
    state = {"layer1.0.se.fc1\nweight": torch.zeros(1), "(": torch.zeros(1)}
    torch.save(state, tmp_path / "w")
    with pytest.raises(BadWeights, match=r"there is no conv1\.weight"):
        load_weights(str(tmp_path / "w"))


@pytest.mark.parametrize("arch", ["resnetblur50", "resnetaa50", "seresnextaa101d_32x8d"])
def test_pooling_that_no_tensor_shows_is_known_by_the_name_of_the_architecture(
    tmp_path: Path, arch: str
) -> None:
    state = dict(load_weights("digits").state_dict)
    torch.save({"arch": arch, "state_dict": state}, tmp_path / "w")
    with pytest.raises(BadWeights, match=f"anti-aliasing filters .arch '{arch}'"):
        load_weights(str(tmp_path / "w"))
    torch.save({"arch": "resnext50_32x4d", "state_dict": state}, tmp_path / "w")
    load_weights(str(tmp_path / "w"))


def digits_with(path: Path, said: dict[str, Any]) -> Weights:
    torch.save({**said, "state_dict": dict(load_weights("digits").state_dict)}, path)
    return load_weights(str(path))


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"gp": "max"}, "another pooling than the average (gp 'max')"),
        ({"gp": "avgmax"}, "another pooling than the average (gp 'avgmax')"),
        ({"gp": ""}, "another pooling than the average (gp '')"),
        ({"model_kwargs": {"act_layer": "silu"}}, "(model_kwargs act_layer='silu')"),
        ({"model_kwargs": {"drop_rate": 0.1, "output_stride": 8}}, "output_stride='8')"),
        ({"model_kwargs": {"global_pool": "max"}}, "(model_kwargs global_pool='max')"),
        ({"model_kwargs": {"aa_layer": "blur"}}, "(model_kwargs aa_layer='blur')"),
        ({"model": "resnetblur50.bt_in1k"}, "anti-aliasing filters (model 'resnetblur50.bt_in1k')"),
    ],
)
def test_options_of_the_trainer_that_no_tensor_shows(
    tmp_path: Path, args: dict[str, Any], word: str
) -> None:
    for stored in (args, argparse.Namespace(**args)):
        with pytest.raises(BadWeights, match=f"cannot run: .*{re.escape(word)}"):
            digits_with(tmp_path / "w", {"args": stored})


def test_options_of_the_trainer_that_change_no_logits(tmp_path: Path) -> None:
    for pooling in (None, "avg", "fast", "fastavg", 10.0):  # the last is of a gradient penalty
        kwargs = {"num_classes": 10, "drop_path_rate": 0.1, "act_layer": "relu", "aa_layer": None}
        args = {"gp": pooling, "drop": 0.2, "drop_block": 0.1, "model_kwargs": kwargs}
        digits_with(tmp_path / "w", {"args": args})


@pytest.mark.parametrize("name", ["seresnext50_32x4d", "resnext50d_32x4d", "densenet121"])
@pytest.mark.parametrize("place", ["arch", "args"])
def test_an_architecture_of_another_family_is_a_note(tmp_path: Path, name: str, place: str) -> None:
    for said, noted in ((name, True), ("swsl_resnext50_32x4d", False), ("resnet50.a1_in1k", False)):
        content = {"arch": said} if place == "arch" else {"args": {"model": said}}
        notes = digits_with(tmp_path / "w", content).notes
        assert any(f"calls its network {said!r}" in note for note in notes) == noted


# ---- shapes


def test_every_variant_is_inferred() -> None:
    for config in VARIANTS.values():
        with torch.device("meta"):
            state = ResNeXt(config).state_dict()
        inferred = config_from_shapes({name: tuple(t.shape) for name, t in state.items()})
        size = 224 if config.stem == "imagenet" else 32
        fields = {**vars(config), "input_size": (size, size)}
        assert vars(inferred) == fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": (8, 3, 5, 5)}, "a kernel of 5x5"),
        ({"conv1.weight": (8, 3, 7)}, "3 dimensions"),
        ({"layer1.0.conv2.weight": (8, 3, 3, 3)}, "8 outputs in groups of 3"),
        ({"layer1.0.conv2.weight": (8, 0, 3, 3)}, "in groups of 0"),
        ({"conv1.weight": (0, 3, 3, 3)}, "stem_channels"),
        ({"fc.weight": (0, 32)}, "num_classes"),
        ({f"layer{stage}.0.conv1.weight": (1,) for stage in range(2, 9)}, "depths"),
    ],
)
def test_shapes_that_no_configuration_has_are_named(change: Any, message: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (8, 3, 3, 3),
        "layer1.0.conv1.weight": (8, 8, 1, 1),
        "layer1.0.conv2.weight": (8, 4, 3, 3),
        "fc.weight": (5, 32),
    }
    config_from_shapes(shapes)
    with pytest.raises(ValueError, match=message):
        config_from_shapes({**shapes, **change})


def test_widths_that_do_not_double_are_named(tmp_path: Path) -> None:
    tiny = ResNeXtConfig((1, 1), 2, 4, (8, 8), 3, 5, "small", 8)
    state = dict(load_weights("seeded", tiny).state_dict)
    state["layer2.0.conv1.weight"] = torch.zeros(12, 32, 1, 1)
    torch.save(state, tmp_path / "w")
    with pytest.raises(BadWeights, match="nearly those of a network of depths 1,1") as caught:
        load_weights(str(tmp_path / "w"))
    assert "layer2.0.conv1.weight (got (12, 32, 1, 1)" in str(caught.value)


def test_another_model_than_that_of_the_tensors_is_named(tmp_path: Path) -> None:
    torch.save(dict(load_weights("digits").state_dict), tmp_path / "w")
    with pytest.raises(BadWeights) as caught:
        load_weights(str(tmp_path / "w"), "resnext50_32x4d")
    assert "The tensors are of resnext11_8x4d_digits or resnext11_8x4d_fashion." in str(
        caught.value
    )
    assert load_weights(str(tmp_path / "w"), "resnext11_8x4d_digits").notes == ()
