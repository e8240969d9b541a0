from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from resnext.errors import UnknownName, UsageError
from resnext.network.config import VARIANTS, ResNeXtConfig, variant, variant_name

COUNTS = ("cardinality", "bottleneck_width", "in_channels", "num_classes", "stem_channels")


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.0, "4", None, True])
def test_a_count_must_be_an_integer_of_at_least_1(field: str, value: object) -> None:
    arguments: dict[str, Any] = {field: value}
    with pytest.raises(UsageError) as caught:
        ResNeXtConfig(**arguments)
    assert str(caught.value) == f"{field} must be an integer of at least 1, got {value!r}"


@pytest.mark.parametrize(
    "value", [(), [3, 4, 6, 3], (3, 0), (3, 1.0), (True,), 3, "33", (1,) * 7, None]
)
def test_depths_must_be_a_short_tuple_of_counts(value: Any) -> None:
    with pytest.raises(
        UsageError, match=r"depths must be a tuple of 1 to 6 integers of at least 1, got"
    ):
        ResNeXtConfig(depths=value)


@pytest.mark.parametrize("value", ["large", "", None, "ImageNet"])
def test_stem_must_be_one_of_two(value: Any) -> None:
    with pytest.raises(UsageError, match="stem must be 'imagenet' or 'small', got"):
        ResNeXtConfig(stem=value)


@pytest.mark.parametrize(
    "value", [224, (224,), (224, 224, 3), [224, 224], (0, 224), (224, -1), (224.0, 224), None]
)
def test_input_size_must_be_a_pair_of_counts(value: Any) -> None:
    with pytest.raises(UsageError, match="`input_size` must be a pair"):
        ResNeXtConfig(input_size=value)


@pytest.mark.parametrize(
    ("stem", "depths", "stride"), [("imagenet", (3, 4, 6, 3), 32), ("small", (3, 3, 3), 4)]
)
def test_an_input_smaller_than_the_total_stride_is_refused(
    stem: Any, depths: tuple[int, ...], stride: int
) -> None:
    with pytest.raises(UsageError, match=f"each must be at least {stride}$"):
        ResNeXtConfig(depths=depths, stem=stem, input_size=(stride, stride - 1))
    assert (
        ResNeXtConfig(depths=depths, stem=stem, input_size=(stride, stride)).total_stride == stride
    )


def test_a_config_never_changes() -> None:
    config = ResNeXtConfig()
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))
    assert hash(config) == hash(ResNeXtConfig())


def test_the_table_of_variants_cannot_be_written_to() -> None:
    with pytest.raises(TypeError):
        VARIANTS["mine"] = ResNeXtConfig()  # type: ignore[index]  # that it cannot is the point


@pytest.mark.parametrize(
    ("name", "depth", "stride"),
    [
        ("resnet50", 50, 32),
        ("resnet101", 101, 32),
        ("resnext50_32x4d", 50, 32),
        ("resnext101_64x4d", 101, 32),
        ("resnext152_32x4d", 152, 32),
        ("resnext29_8x64d", 29, 4),
        ("resnext11_8x4d_digits", 11, 4),
    ],
)
def test_depth_and_stride_of_named_networks(name: str, depth: int, stride: int) -> None:
    assert (variant(name).depth, variant(name).total_stride) == (depth, stride)


def test_every_name_states_its_depth_cardinality_and_width() -> None:
    for name, config in VARIANTS.items():
        if "x" not in name.removeprefix("resnext"):
            assert name == f"resnet{config.depth}"
            assert (config.cardinality, config.bottleneck_width) == (1, 64)
        else:
            base = f"resnext{config.depth}_{config.cardinality}x{config.bottleneck_width}d"
            assert name.startswith(base)


def test_widths_double_from_stage_to_stage() -> None:
    config = ResNeXtConfig(cardinality=8, bottleneck_width=3, stem_channels=16)
    assert [config.group_width(stage) for stage in range(4)] == [3, 6, 12, 24]
    assert [config.inner_channels(stage) for stage in range(4)] == [24, 48, 96, 192]
    assert [config.out_channels(stage) for stage in range(4)] == [64, 128, 256, 512]


def test_an_unknown_variant_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(UnknownName) as caught:
        variant("resnext50_32x4")
    message = str(caught.value)
    assert "'resnext50_32x4'; did you mean 'resnext50_32x4d'?" in message
    for name in VARIANTS:
        assert name in message.partition("Known: ")[2]


def test_a_name_near_to_nothing_gets_no_guess() -> None:
    with pytest.raises(UnknownName) as caught:
        variant("???")
    assert "did you mean" not in str(caught.value)


def test_a_variant_is_found_again_by_its_configuration() -> None:
    for name in VARIANTS:
        assert variant_name(variant(name)) == name
    assert variant_name(ResNeXtConfig(num_classes=17)) is None
