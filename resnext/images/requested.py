"""Preprocessing that a user requests, over what the weights declare or what is assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from resnext.errors import BadInput, UsageError
from resnext.readers.files import MOST_JSON, read_file
from resnext.readers.strict_json import parse_json

from .preprocessing import Preprocessing

Interpolation = Literal["bilinear", "bicubic"]

#: Fields of a file by its kind, with ours for each; those of an exported manifest come first.
_OURS = {name: name for name in ("resize", "interpolation", "mean", "std")}
_TIMM = {"crop_pct": "crop", "interpolation": "interpolation", "mean": "mean", "std": "std"}
_TORCHVISION = {
    "resize_size": "resize",
    "interpolation": "interpolation",
    "mean": "mean",
    "std": "std",
}
#: What a configuration of timm (or its ``config.json`` of one level) says besides, and that changes
#: no pixel of the center crop.
_TIMM_BESIDES = frozenset(
    [
        "architecture",
        "classifier",
        "crop_mode",
        "custom_load",
        "description",
        "file",
        "first_conv",
        "fixed_input_size",
        "global_pool",
        "hf_hub_filename",
        "hf_hub_id",
        "input_size",
        "label_descriptions",
        "label_names",
        "label_offset",
        "labels",
        "license",
        "min_input_size",
        "model_args",
        "notes",
        "num_classes",
        "num_features",
        "origin_url",
        "paper_ids",
        "paper_name",
        "pool_size",
        "pretrained_cfg",
        "source",
        "state_dict",
        "tag",
        "test_crop_pct",
        "test_input_size",
        "test_pool_size",
        "url",
    ]
)
_TORCHVISION_BESIDES = frozenset({"antialias", "crop_size"})
#: Largest shorter side after resizing, in shorter sides of the network's input.
_MOST_RESIZE = 16


@dataclass(frozen=True)
class PreprocessingOptions:
    """What to change in a network's preprocessing; None keeps a value.

    Attributes:
        resize: length of the shorter side after resizing, pixels.
        crop: share of the resized shorter side that the crop keeps (timm's ``crop_pct``), instead
            of ``resize``.
        interpolation: of the resize.
        mean: subtracted from each channel, in units of full scale (0 to 1).
        std: divides each channel, in units of full scale.

    Raises:
        UsageError: a value that is out of range, or both ``resize`` and ``crop``.
    """

    resize: int | None = None
    crop: float | None = None
    interpolation: Interpolation | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what no network was trained with."""
        if self.resize is not None and self.crop is not None:
            raise UsageError(
                "`crop` is the share of `resize` that is kept, so it says the same", hint="drop one"
            )
        if self.resize is not None and self.resize < 1:
            raise UsageError(f"`resize` must be at least 1 pixel, not {self.resize}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UsageError(
                f"`crop` is a share above 0 and at most 1, for example 0.875, not {self.crop:g}"
            )
        if self.interpolation not in (None, *get_args(Interpolation)):
            known = " or ".join(get_args(Interpolation))
            raise UsageError(f"`interpolation` must be {known}, not {self.interpolation!r}")
        _check_scale("mean", self.mean)
        _check_scale("std", self.std)
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"`std` must be positive, not {_listed(self.std)}")

    def __bool__(self) -> bool:
        """Whether anything is requested."""
        return any(getattr(self, each.name) is not None for each in fields(self))

    @property
    def open(self) -> tuple[str, ...]:
        """Names of the values that are not requested; ``crop`` and ``resize`` are one."""
        names = ("resize", "interpolation", "mean", "std")
        left = [name for name in names if getattr(self, name) is None]
        return tuple(name for name in left if name != "resize" or self.crop is None)

    def applied(self, declared: Preprocessing) -> Preprocessing:
        """``declared`` with what is requested.

        Raises:
            UsageError: a mean or standard deviation of another number of channels, or an image that
                is resized to less than the network's input.
        """
        channels = len(declared.mean)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise UsageError(
                    f"`{name}` has {len(values)} values, and the network {channels} input channels"
                )
        shorter = min(declared.crop)
        resize = self.resize or declared.resize
        if self.resize is not None and self.resize > _MOST_RESIZE * shorter:
            raise UsageError(
                f"`resize` {self.resize} is too large: more than {_MOST_RESIZE} times the network's"
                f" input of {declared.crop[0]}x{declared.crop[1]} pixels",
                hint="request less, or another `input_size`",
            )
        if self.crop is not None and self.crop * _MOST_RESIZE < 1:
            raise UsageError(
                f"`crop` {self.crop:g} is too small: less than 1/{_MOST_RESIZE}, so that hardly"
                " anything of a picture is kept"
            )
        if self.crop is not None:
            resize = math.floor(shorter / self.crop)  # as timm rounds
        if resize < shorter:
            raise UsageError(
                f"`resize` {resize} is smaller than the network's input of"
                f" {declared.crop[0]}x{declared.crop[1]} pixels",
                hint="request more, or another `input_size`",
            )
        return declared.model_copy(
            update={
                "resize": resize,
                "interpolation": self.interpolation or declared.interpolation,
                "mean": self.mean or declared.mean,
                "std": self.std or declared.std,
            }
        )


def read_preprocessing(path: Path) -> tuple[PreprocessingOptions, tuple[int, int] | None]:
    """The preprocessing in a JSON file, and the network's input size (height, width) if it is
    there.

    The file holds what a manifest of an artifact has in ``preprocessing`` (or the whole manifest),
    timm's ``pretrained_cfg`` (or the ``config.json`` with it), or the values of a transform of
    torchvision's weights (``resize_size``, ``crop_size``, ...).

    Raises:
        BadInput: it is not JSON, or holds no preprocessing, or one that is not possible here.
    """
    try:
        content = parse_json(read_file(path, MOST_JSON))
    except ValueError as exc:
        if isinstance(exc, BadInput):
            raise
        raise BadInput(f"{path} is not JSON: {exc}") from exc
    for outer in ("preprocessing", "pretrained_cfg"):
        if isinstance(content, dict) and isinstance(content.get(outer), dict):
            content = content[outer]
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no preprocessing: it is no JSON object")
    try:
        return _read(content)
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadInput(f"{path}: {' '.join(str(exc).split())}") from exc


def _read(content: Mapping[str, Any]) -> tuple[PreprocessingOptions, tuple[int, int] | None]:
    if content.keys() & {"resize_size", "crop_size"}:
        names, size, besides = _TORCHVISION, content.get("crop_size"), _TORCHVISION_BESIDES
        if content.get("antialias") is False:
            raise BadInput("it resizes without antialiasing, which is not possible here")
    elif content.keys() & {"crop_pct", "input_size"}:
        names, size, besides = _TIMM, content.get("input_size"), _TIMM_BESIDES
        if content.get("crop_mode", "center") != "center":
            raise BadInput(
                f"its crop_mode is {content['crop_mode']!r}; only center is possible here"
            )
        size = size[1:] if isinstance(size, list) else size
    else:
        names, size = _OURS, content.get("crop")
        besides = frozenset(Preprocessing.model_fields)
    if unknown := sorted(content.keys() - names.keys() - besides):
        listed = ", ".join(map(repr, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        raise BadInput(
            f"{listed} {'is' if len(unknown) == 1 else 'are'} no field of a preprocessing here",
            hint="write its values as `mean`, `std`, `interpolation`, and `resize` or `crop`",
        )
    values = {ours: content[name] for name, ours in names.items() if content.get(name) is not None}
    if not values:
        raise BadInput(f"it holds no preprocessing: none of {', '.join(names)}")
    if isinstance(values.get("resize"), list):
        (values["resize"],) = values["resize"]
    for name in ("mean", "std"):
        if name in values:
            values[name] = tuple(map(_number, values[name]))
    for name in values.keys() & {"resize", "crop"}:
        values[name] = _number(values[name])
    if "resize" in values:
        values["resize"] = _whole(values["resize"])
    if "interpolation" in values:
        values["interpolation"] = str(values["interpolation"]).rpartition(".")[2].lower()
    return PreprocessingOptions(**values), _size(size)


def _size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = [_whole(_number(side)) for side in (size if isinstance(size, list) else [size])]
    height, width = sides * 2 if len(sides) == 1 else sides
    return height, width


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{value!r} is not a number")
    return value


def _whole(value: float) -> int:
    if value != int(value):
        raise BadInput(f"{value!r} is not a whole number of pixels")
    return int(value)


def _check_scale(name: str, values: tuple[float, ...] | None) -> None:
    if values is None:
        return
    if not values or not all(math.isfinite(value) for value in values):
        raise UsageError(f"`{name}` must be finite numbers, not {_listed(values)}")
    if max(values) > 1:
        full = tuple(round(value / 255, 6) for value in values)
        raise UsageError(
            f"`{name}` {_listed(values)} is not in units of full scale, 0 to 1",
            hint=f"if it is of pixels from 0 to 255, that is {_listed(full)}",
        )
    if min(values) < 0:
        raise UsageError(f"`{name}` must not be negative, as {_listed(values)} is")


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values) or "nothing"
