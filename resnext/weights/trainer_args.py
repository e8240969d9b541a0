"""The preprocessing in the command line that a trainer stored beside the tensors."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


def trainer_options(content: Any) -> Mapping[str, Any]:
    """The options of the trainer's command line, or none."""
    args = content.get("args") if isinstance(content, Mapping) else None
    options = vars(args) if isinstance(args, argparse.Namespace) else args
    return options if isinstance(options, Mapping) else {}


def preprocessing_from_args(content: Any, in_channels: int) -> Preprocessing | None:
    """How the trainer prepared images for evaluation, if its options leave nothing open.

    torchvision's reference script always has ``val_resize_size``, ``val_crop_size`` and
    ``interpolation``, and normalizes with ImageNet's mean and standard deviation. timm's
    ``train.py`` takes what is not given from its table of models, which the file does not have: all
    of ``img_size``, ``crop_pct``, ``interpolation``, ``mean`` and ``std`` must be there.

    Args:
        content: what the checkpoint holds.
        in_channels: of the network; these trainers' pictures have three.

    Returns:
        None if there are no such options, or something is open.
    """
    options = trainer_options(content)
    if in_channels != 3:
        return None
    names = ("val_resize_size", "val_crop_size", "interpolation")
    if all(options.get(name) is not None for name in names):
        resize, crop, interpolation = (options[name] for name in names)
        return _valid(resize, crop, interpolation, IMAGENET_MEAN, IMAGENET_STD)
    needed = ("img_size", "crop_pct", "interpolation", "mean", "std")
    open_ones = any(options.get(name) is None for name in needed)
    # Both override what is above.
    if open_ones or options.get("input_size") or options.get("crop_mode") not in (None, "center"):
        return None
    crop, share, interpolation, mean, std = (options[name] for name in needed)
    try:
        resize = math.floor(crop / share)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return _valid(resize, crop, interpolation, mean, std)


def _valid(resize: Any, crop: Any, interpolation: Any, mean: Any, std: Any) -> Preprocessing | None:
    try:
        return Preprocessing.model_validate(
            {
                "resize": resize,
                "crop": (crop, crop),
                "mean": mean,
                "std": std,
                "interpolation": interpolation,
            }
        )
    except ValueError:  # timm's "random", or one value for all channels
        return None
