"""Weights by name: a SPEC becomes weights that fit their configuration.

A weights SPEC is one of::

    seeded, seeded:7      conditioned random weights (see resnext.weights.conditioned);
                          the default for ImageNet-size models
    digits                trained on scikit-learn's digits, shipped; implies its model
    fashion-mnist         trained on Fashion-MNIST, shipped; implies its model
    PATH.safetensors      this toolkit's, torchvision's or timm's parameter names
    PATH.pth, PATH.pt     the same, read with weights_only=True: a pickle that would
                          run code is refused
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from resnext.errors import BadWeights, UsageError
from resnext.images.preprocessing import default_preprocessing
from resnext.network.config import ResNeXtConfig, variant, variant_name
from resnext.readers.files import check_utf8, is_file

from .checkpoint import Weights as Weights
from .checkpoint import declared_config, read_weights
from .shipped import SHIPPED

if TYPE_CHECKING:
    from resnext.network.model import ResNeXt

_SUFFIXES = (".safetensors", ".pth", ".pt")


def load_weights(
    spec: str | None = None,
    model: str | ResNeXtConfig | None = None,
    *,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
) -> Weights:
    """Find, read and check the weights that ``spec`` names.

    Args:
        spec: a weights SPEC as the module describes it; None means the shipped weights if the model
            has some, else ``seeded``.
        model: name of a variant, or a configuration; None means the model that the checkpoint
            declares, else resnext50_32x4d.
        num_classes: number of logits, if it differs from the model's.
        input_size: (height, width) in pixels, if it differs from the model's.

    Raises:
        UsageError: ``spec`` is malformed, or names shipped weights of another model than ``model``.
        BadWeights: the file is missing, unsafe, declares another model, or does not fit; names the
            first tensors that do not.
    """
    if spec is None:
        models = {known: name for name, row in SHIPPED.items() for known in (row.model, row.config)}
        spec = "seeded" if model is None else models.get(model, "seeded")
    origin = _origin(spec)
    implied = declared_config(origin) if isinstance(origin, Path) else None
    named = variant(model) if isinstance(model, str) else model
    if implied is not None and named is not None:
        # A configuration may have another input size than the checkpoint was trained at; a name
        # may not.
        requested = (
            named if isinstance(model, str) else replace(named, input_size=implied.input_size)
        )
        if requested != implied:
            name = variant_name(implied) or "a custom configuration"
            kind = UsageError if spec in SHIPPED else BadWeights
            raise kind(
                f"weights {spec!r} are of model {name}",
                hint="leave `model` and `num_classes` out, or choose other weights",
            )
    config = named or implied or variant("resnext50_32x4d")
    config = replace(
        config,
        num_classes=num_classes or config.num_classes,
        input_size=input_size or config.input_size,
    )
    if isinstance(origin, Path):
        weights = read_weights(origin, config)
        return replace(weights, source=spec) if spec in SHIPPED else weights
    from .conditioned import seeded_state_dict

    return Weights(config, seeded_state_dict(config, origin), spec, default_preprocessing(config))


def _origin(spec: str) -> int | Path:
    """The seed that ``spec`` names, or the file."""
    name, colon, number = spec.partition(":")
    if name == "seeded":
        if colon and not (number.isascii() and number.isdigit()):
            raise UsageError(
                f"weights {spec!r}: the seed after 'seeded:' must be a whole number of 0 or more"
            )
        return int(number or 0)
    if spec in SHIPPED:
        return SHIPPED[spec].path
    path = Path(spec)
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"weights {spec!r} are not of a known form; give seeded[:N], {', '.join(SHIPPED)}, "
            f"or a path that ends in {', '.join(_SUFFIXES)}"
        )
    if not is_file(path):
        raise BadWeights(f"no weights file at {path}")
    check_utf8(path.resolve(), "the path of the weights")  # which manifests hold
    return path


def load_model(weights: Weights) -> ResNeXt:
    """A float32 ResNeXt on the CPU, in eval mode, that owns a copy of ``weights``."""
    # A compiled package opens without the model's source, so nothing imports it before it is built.
    from resnext.network.model import ResNeXt

    with torch.device("meta"):
        model = ResNeXt(weights.config)
    model.load_state_dict(
        {name: value.clone() for name, value in weights.state_dict.items()}, assign=True
    )
    return model.eval().requires_grad_(False)
