"""Preprocessing that a user requests: applied over what is declared, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.model_zoos import timm, torchvision
from resnext.errors import BadInput, UsageError
from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, default_preprocessing
from resnext.images.requested import PreprocessingOptions, read_preprocessing
from resnext.network.config import ResNeXtConfig

DEFAULT = default_preprocessing(ResNeXtConfig())
HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("requested", "changed"),
    [
        ({}, {}),
        ({"resize": 232}, {"resize": 232}),
        ({"crop": 0.875}, {"resize": 256}),
        ({"crop": 0.95}, {"resize": 235}),
        ({"crop": 1.0}, {"resize": 224}),
        ({"interpolation": "bicubic"}, {"interpolation": "bicubic"}),
        ({"mean": HALF, "std": HALF}, {"mean": HALF, "std": HALF}),
        ({"mean": (0.0, 0.0, 0.0)}, {"mean": (0.0, 0.0, 0.0)}),
    ],
)
def test_what_is_requested_replaces_what_is_declared(
    requested: dict[str, Any], changed: dict[str, Any]
) -> None:
    options = PreprocessingOptions(**requested)
    assert bool(options) == bool(requested)
    assert options.applied(DEFAULT) == DEFAULT.model_copy(update=changed)


@pytest.mark.parametrize(
    ("requested", "why"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, "0.485,0.456,0.406"),
        ({"std": (58.395, 57.12, 57.375)}, "0.229,0.224,0.225"),
        ({"mean": (0.5,)}, "1 values, and the network 3 input channels"),
        ({"std": (0.5, 0.5)}, "2 values, and the network 3 input channels"),
        ({"std": (0.5, 0.0, 0.5)}, "must be positive"),
        ({"mean": (-0.5, 0.0, 0.5)}, "must not be negative"),
        ({"mean": (float("nan"), 0.0, 0.5)}, "must be finite"),
        ({"mean": ()}, "must be finite numbers, not nothing"),
        ({"resize": 0}, "at least 1 pixel"),
        ({"resize": 200}, "`resize` 200 is smaller than the network's input of 224x224"),
        ({"resize": 224 * 16 + 1}, "`resize` 3585 is too large: more than 16 times"),
        ({"resize": 1_000_000}, "`resize` 1000000 is too large"),
        ({"crop": 0.05}, "`crop` 0.05 is too small"),
        ({"crop": 5e-324}, "is too small"),
        ({"crop": 0.0}, "above 0 and at most 1"),
        ({"crop": 87.5}, "above 0 and at most 1"),
        ({"crop": float("nan")}, "above 0 and at most 1"),
        ({"crop": 0.9, "resize": 256}, "drop one"),
        ({"interpolation": "nearest"}, "must be bilinear or bicubic, not 'nearest'"),
    ],
)
def test_what_makes_no_sense_is_refused(requested: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        PreprocessingOptions(**requested).applied(DEFAULT)
    assert why in str(caught.value)


def written(folder: Path, content: Any) -> Path:
    path = folder / "preprocessing.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


OURS = DEFAULT.model_copy(update={"resize": 232, "mean": HALF}).model_dump(mode="json")
#: A file, what it says of the preprocessing, and the input size.
FILES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "ours": (OURS, {"resize": 232, "mean": HALF}, (224, 224)),
    "a manifest": ({"preprocessing": OURS}, {"resize": 232, "mean": HALF}, (224, 224)),
    "part of ours": ({"mean": [0.5, 0.5, 0.5]}, {"mean": HALF}, None),
    "timm": (
        {
            "architecture": "resnext50_32x4d",
            "pretrained_cfg": {
                "input_size": [3, 288, 288],
                "crop_pct": 0.95,
                "interpolation": "bicubic",
                "mean": [0.5, 0.5, 0.5],
                "std": list(IMAGENET_STD),
                "crop_mode": "center",
            },
        },
        {"resize": 303, "crop": (288, 288), "interpolation": "bicubic", "mean": HALF},
        (288, 288),
    ),
    "torchvision": (
        {
            "crop_size": [224],
            "resize_size": [232],
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "interpolation": "InterpolationMode.BILINEAR",
            "antialias": True,
        },
        {"resize": 232},
        (224, 224),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_says_what_its_writer_meant(tmp_path: Path, kind: str) -> None:
    content, changed, size = FILES[kind]
    options, said = read_preprocessing(written(tmp_path, content))
    assert said == size
    declared = default_preprocessing(ResNeXtConfig(input_size=said or (224, 224)))
    assert options.applied(declared) == declared.model_copy(update=changed)


def test_a_file_of_the_libraries_own_values_is_read(tmp_path: Path) -> None:
    config = timm().models.get_pretrained_cfg("resnext50_32x4d.a1h_in1k").to_dict()
    options, size = read_preprocessing(written(tmp_path, config))
    assert size == (224, 224)
    assert options.crop == config["crop_pct"]
    transform = torchvision().models.ResNeXt50_32X4D_Weights.IMAGENET1K_V2.transforms()
    values = {**vars(transform)}
    kept = ("crop_size", "resize_size", "mean", "std", "antialias")
    plain = {name: values[name] for name in kept} | {"interpolation": str(transform.interpolation)}
    options, size = read_preprocessing(written(tmp_path, plain))
    assert (options.resize, size, options.interpolation) == (232, (224, 224), "bilinear")


#: As the transformers library writes ``preprocessor_config.json``.
HUGGING_FACE = {
    "do_resize": True,
    "size": {"shortest_edge": 64},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.2, 0.2, 0.2],
    "resample": 3,
}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ({}, "no preprocessing"),
        ({"gamma": 2.2}, "'gamma' is no field of a preprocessing"),
        (
            {**HUGGING_FACE, "crop_pct": 0.875},
            "'do_resize', 'image_mean', 'image_std', 'resample', 'size' are no field",
        ),
        ({**HUGGING_FACE, "crop_size": 224}, "'do_resize', 'image_mean'"),
        ({"resize_size": 232, "gamma": 2.2}, "'gamma' is no field"),
        ({"mean": [123.675, 116.28, 103.53]}, "0.485,0.456,0.406"),
        ({"mean": "0.5"}, "'0' is not a number"),
        ({"mean": {"r": 0.5}}, "'r' is not a number"),
        ({"mean": 0.5}, "preprocessing.json"),
        ({"mean": [True, True, True]}, "True is not a number"),
        ({"mean": [10**400, 0, 0]}, "preprocessing.json"),
        ({"resize": 232.5}, "232.5 is not a whole number"),
        ({"resize": "232"}, "'232' is not a number"),
        ({"resize_size": [232, 240]}, "preprocessing.json"),
        ({"resize_size": 232, "antialias": False}, "without antialiasing"),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, "only center"),
        ({"crop_pct": 0.9, "interpolation": "lanczos"}, "must be bilinear or bicubic"),
        ({"crop_pct": 0.9, "input_size": [3, 224, 224, 1]}, "preprocessing.json"),
        ({"input_size": [3, 224, 224]}, "no preprocessing"),
    ],
)
def test_a_file_that_says_nothing_usable_is_refused(tmp_path: Path, content: Any, why: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_preprocessing(written(tmp_path, content))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
