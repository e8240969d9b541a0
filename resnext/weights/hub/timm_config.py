"""The config.json beside weights in timm's layout: preprocessing and class names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resnext.errors import BadWeights
from resnext.images.preprocessing import Preprocessing


def preprocessing_from_config(config: Mapping[str, Any], repository: str) -> Preprocessing | None:
    """The preprocessing that config.json declares, at the input size that it declares.

    Args:
        config: the parsed file.
        repository: for messages.

    Returns:
        None if it declares none.

    Raises:
        BadWeights: it is of another layout, or declares what cannot be done here.
    """
    if "architecture" not in config:
        if "architectures" in config:
            raise BadWeights(
                f"{repository} is in the layout of the transformers library, whose tensors have"
                " other names",
                hint="choose weights in timm's or torchvision's layout",
            )
        return None
    declared = _pretrained(config)
    if "input_size" not in declared:
        return None
    if (mode := declared.get("crop_mode") or "center") != "center":
        raise BadWeights(f"{repository} declares crop_mode {mode!r}; only center can be done here")
    try:
        channels, *crop = declared["input_size"]
        return Preprocessing.model_validate(
            {
                "resize": math.floor(min(crop) / declared.get("crop_pct", 1.0)),
                "crop": crop,
                "mean": declared["mean"],
                "std": declared["std"],
                "color": "L" if channels == 1 else "RGB",
                "interpolation": declared.get("interpolation", "bilinear"),
            }
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
        raise BadWeights(
            f"config.json of {repository} declares a preprocessing that is not valid:"
            f" {' '.join(str(exc).split())}"
        ) from exc


def class_names_from_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that config.json has for the classes, human-readable if it has both kinds; or
    none.
    """
    both = {**_pretrained(config), **config}
    names = both.get("label_names") or both.get("labels") or []
    descriptions = both.get("label_descriptions") or {}
    if not isinstance(names, list):
        return ()
    if isinstance(descriptions, Mapping):
        names = [descriptions.get(str(name), name) for name in names]
    return tuple(map(str, names))


def _pretrained(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about the weights; older files have no other part."""
    declared = config.get("pretrained_cfg", config)
    return declared if isinstance(declared, Mapping) else {}
