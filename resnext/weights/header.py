"""What a checkpoint says of itself: the header that `save_weights` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from resnext.errors import BadWeights, UsageError
from resnext.images.preprocessing import Preprocessing
from resnext.network.config import ResNeXtConfig


def declared_config(header: Mapping[str, Any], path: Path) -> ResNeXtConfig | None:
    """The configuration, or None if there is none.

    Raises:
        BadWeights: it is not valid.
    """
    if "config" not in header:
        return None
    try:
        return TypeAdapter(ResNeXtConfig).validate_python(header["config"])
    except (ValueError, UsageError) as exc:
        raise BadWeights(
            f"{path} declares a configuration that is not valid: {' '.join(str(exc).split())}"
        ) from exc


def declared_preprocessing(header: Mapping[str, Any], path: Path) -> Preprocessing | None:
    """The preprocessing, or None if there is none.

    Raises:
        BadWeights: it is not valid.
    """
    if "preprocessing" not in header:
        return None
    try:
        return Preprocessing.model_validate(header["preprocessing"])
    except ValueError as exc:
        raise BadWeights(
            f"{path} declares a preprocessing that is not valid: {' '.join(str(exc).split())}"
        ) from exc


def declared_class_names(
    header: Mapping[str, Any], config: ResNeXtConfig, path: Path
) -> tuple[str, ...]:
    """One name for each logit, or none.

    Raises:
        BadWeights: not a list, or not as many as ``config`` has logits.
    """
    names = header.get("class_names", [])
    if not isinstance(names, list) or (names and len(names) != config.num_classes):
        raise BadWeights(
            f"the class names in {path} are not a list of {config.num_classes}, one for each logit"
        )
    return tuple(map(str, names))


def fitted_preprocessing(
    declared: Preprocessing, config: ResNeXtConfig, source: str
) -> Preprocessing:
    """A declared preprocessing at the input size of ``config``.

    Raises:
        BadWeights: it is for another number of input channels.
    """
    if len(declared.mean) != config.in_channels:
        raise BadWeights(
            f"{source} declares a preprocessing of {declared.color} for {config.in_channels} input"
            " channels"
        )
    if declared.crop == config.input_size:
        return declared
    # Another input size was requested: keep the proportion of resize to crop.
    resize = round(declared.resize * min(config.input_size) / min(declared.crop))
    return declared.model_copy(
        update={"crop": config.input_size, "resize": max(resize, min(config.input_size))}
    )
