"""The config.json beside weights in timm's layout: preprocessing and class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.errors import BadInput, BadWeights
from resnext.images.requested import PreprocessingOptions, read_preprocessing
from resnext.readers.files import MOST_JSON, read_file
from resnext.readers.strict_json import parse_json
from resnext.weights.declared_model import (
    refuse_architecture,
    refuse_arguments,
    refuse_pooling,
)


@dataclass(frozen=True)
class TimmConfig:
    """What a config.json says.

    Attributes:
        preprocessing: None if it says nothing of it.
        input_size: (height, width) in pixels, if it says that.
        class_names: human-readable if it has both kinds; or empty.
        architecture: timm's name of the network, if it says that.
    """

    preprocessing: PreprocessingOptions | None = None
    input_size: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    architecture: str | None = None


def read_timm_config(path: Path, repository: str) -> TimmConfig:
    """Read the config.json of a repository.

    Raises:
        BadWeights: it is of another layout, no JSON object, or declares what cannot be done here.
    """
    try:
        config = parse_json(read_file(path, MOST_JSON))
        if not isinstance(config, dict):
            raise BadInput("it is no JSON object")
        if "architectures" in config and "architecture" not in config:
            raise BadWeights(
                f"{repository} is in the layout of the transformers library, whose tensors have"
                " other names",
                hint="choose weights in timm's or torchvision's layout",
            )
        architecture, source = config.get("architecture"), f"config.json of {repository}"
        refuse_architecture(architecture, "architecture", source)
        refuse_pooling(config.get("global_pool"), "global_pool", source)
        refuse_arguments(config.get("model_args"), "model_args", source)
        architecture = architecture if isinstance(architecture, str) else None
        declared = config.get("pretrained_cfg", config)  # older files have no other part
        if not isinstance(declared, dict) or not declared.keys() & {"input_size", "mean"}:
            return TimmConfig(class_names=_class_names(config), architecture=architecture)
        options, input_size = read_preprocessing(path)
    except BadWeights:
        raise
    except ValueError as exc:
        raise BadWeights(f"config.json of {repository} is not usable: {exc}") from exc
    return TimmConfig(options, input_size, _class_names({**declared, **config}), architecture)


def _class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("label_names") or config.get("labels")
    descriptions = config.get("label_descriptions")
    if not isinstance(names, list):
        return ()
    if isinstance(descriptions, Mapping):
        names = [descriptions.get(str(name), name) for name in names]
    return tuple(map(str, names))
