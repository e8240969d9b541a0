"""The preprocessing in the command line that a trainer stored beside the tensors."""

from __future__ import annotations

import argparse
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnext.errors import UsageError
from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnext.images.requested import PreprocessingOptions

_NOTHING = PreprocessingOptions()
_REFERENCE = ("val_resize_size", "val_crop_size", "interpolation")


@dataclass(frozen=True)
class TrainerArgs:
    """What a trainer's options say of how it prepared images for evaluation.

    Attributes:
        preprocessing: all of it; None if something is open, or not possible here.
        input_size: (height, width) in pixels, if they say it.
        scale: the mean and standard deviation, if they say both.
        notes: one line for each value that is not possible here.
    """

    preprocessing: Preprocessing | None = None
    input_size: tuple[int, int] | None = None
    scale: PreprocessingOptions = _NOTHING
    notes: tuple[str, ...] = ()


def trainer_options(content: Any) -> Mapping[str, Any]:
    """The options of the trainer's command line, or none."""
    args = content.get("args") if isinstance(content, Mapping) else None
    options = vars(args) if isinstance(args, argparse.Namespace) else args
    return options if isinstance(options, Mapping) else {}


def preprocessing_from_args(content: Any, in_channels: int) -> TrainerArgs:
    """How the trainer prepared images for evaluation, as far as its options say.

    torchvision's reference script always has ``val_resize_size``, ``val_crop_size`` and
    ``interpolation``, and normalizes with ImageNet's mean and standard deviation. timm's
    ``train.py`` takes what is not given from its table of models, which the file does not have: all
    of ``img_size`` or ``input_size``, ``crop_pct``, ``interpolation``, ``mean`` and ``std`` must be
    there.

    Args:
        content: what the checkpoint holds.
        in_channels: of the network; these trainers' pictures have three.
    """
    options = trainer_options(content)
    if in_channels != 3:
        return TrainerArgs()
    said = {
        name: value
        for name, value in options.items()
        if value is not None and not (isinstance(value, str) and value == "")
    }
    refused: list[str] = []
    if all(name in said for name in _REFERENCE):
        scale = PreprocessingOptions(mean=IMAGENET_MEAN, std=IMAGENET_STD)
        size = _size(said, "val_crop_size", refused)
        resize = _side(said["val_resize_size"])
        if size is not None and (resize is None or resize < min(size)):
            refused.append(
                f"val_resize_size {_shown(said['val_resize_size'])} for a crop of {size[0]}"
            )
            resize = None
    else:
        scale = _scale(said, refused)
        size = _size(said, "input_size" if "input_size" in said else "img_size", refused)
        resize = _timm_resize(said, size, refused)
    interpolation = said.get("interpolation")
    if interpolation is not None and str(interpolation) not in ("bilinear", "bicubic"):
        refused.append(f"interpolation {_shown(interpolation)}: only bilinear and bicubic are")
        interpolation = None
    notes = tuple(
        f"the trainer's options in the checkpoint are not possible here: {why}" for why in refused
    )
    kept = [*(["the input size"] if size else []), *(["mean and std"] if scale else [])]
    if refused and kept:
        notes += (f"kept of the trainer's options: {', '.join(kept)}; the rest is assumed",)
    if refused or not (size and resize and interpolation and scale.mean and scale.std):
        return TrainerArgs(None, size, scale, notes)
    declared = Preprocessing(
        resize=resize, crop=size, mean=scale.mean, std=scale.std, interpolation=interpolation
    )
    return TrainerArgs(declared, size, scale)


def _shown(value: Any) -> str:
    return " ".join(reprlib.repr(value).split())


def _side(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _size(said: Mapping[str, Any], name: str, refused: list[str]) -> tuple[int, int] | None:
    """Height and width of the crop, of one number or of channels, height and width."""
    value = said.get(name)
    if value is None:
        return None
    sides = [3, value, value] if name != "input_size" else value
    if isinstance(sides, list | tuple) and len(sides) == 3 and _side(sides[0]) == 3:
        height, width = map(_side, sides[1:])
        if height and width:
            return height, width
    refused.append(f"{name} {_shown(value)} as the size of an RGB image")
    return None


def _scale(said: Mapping[str, Any], refused: list[str]) -> PreprocessingOptions:
    """Mean and standard deviation, held to what a user may request."""
    try:
        scale = PreprocessingOptions(mean=_numbers("mean", said), std=_numbers("std", said))
    except (UsageError, OverflowError) as exc:
        refused.append(str(exc))
        return _NOTHING
    return scale if scale.mean and scale.std else _NOTHING


def _numbers(name: str, said: Mapping[str, Any]) -> tuple[float, ...] | None:
    value = said.get(name)
    if value is None:
        return None
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(type(each) in (int, float) for each in numbers):
        raise UsageError(f"`{name}` {_shown(value)} is not three numbers")
    return tuple(numbers)


def _timm_resize(
    said: Mapping[str, Any], size: tuple[int, int] | None, refused: list[str]
) -> int | None:
    if str(said.get("crop_mode", "center")) != "center":
        refused.append(f"crop_mode {_shown(said['crop_mode'])}: only center is")
    share = said.get("crop_pct")
    if share is None or size is None:
        return None
    if not isinstance(share, int | float) or not 0 < share <= 1:
        refused.append(f"crop_pct {_shown(share)}: only a share above 0 and at most 1 is")
        return None
    if size[0] != size[1]:
        refused.append(f"a crop of {size[0]}x{size[1]}, which timm resizes to by another rule")
        return None
    try:
        return math.floor(size[0] / share)
    except OverflowError:
        return None
