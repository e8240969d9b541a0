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
from typing import TYPE_CHECKING, NoReturn

import torch

from resnext.errors import BadWeights, UsageError
from resnext.images.preprocessing import default_preprocessing
from resnext.network.config import ResNeXtConfig, variant, variant_name

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
    named = variant(model) if isinstance(model, str) else model
    if spec is None:
        spec = next((name for name, known in SHIPPED.items() if known.config == named), "seeded")
    implied = _implied_config(spec)
    if implied is not None and named is not None:
        # A configuration may have another input size than the checkpoint was trained at; a name
        # may not.
        requested = (
            named if isinstance(model, str) else replace(named, input_size=implied.input_size)
        )
        if requested != implied:
            _refuse_other_model(spec, implied)
    config = named or implied or variant("resnext50_32x4d")
    config = replace(
        config,
        num_classes=num_classes or config.num_classes,
        input_size=input_size or config.input_size,
    )
    if spec in SHIPPED:
        return replace(read_weights(SHIPPED[spec].path, config), source=spec)
    if spec == "seeded" or spec.startswith("seeded:"):
        from .conditioned import seeded_state_dict

        state = seeded_state_dict(config, _seed(spec))
        return Weights(config, state, spec, default_preprocessing(config))
    return read_weights(Path(spec), config)


def _implied_config(spec: str) -> ResNeXtConfig | None:
    """The configuration that ``spec`` declares, or None."""
    if spec in SHIPPED:
        return SHIPPED[spec].config
    if spec == "seeded" or spec.startswith("seeded:"):
        return None
    path = Path(spec)
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"weights {spec!r} are not of a known form; give seeded[:N], {', '.join(SHIPPED)}, "
            f"or a path that ends in {', '.join(_SUFFIXES)}"
        )
    if not path.is_file():
        raise BadWeights(f"no weights file at {path}")
    return declared_config(path)


def _refuse_other_model(spec: str, implied: ResNeXtConfig) -> NoReturn:
    name = variant_name(implied) or "a custom configuration"
    kind = UsageError if spec in SHIPPED else BadWeights
    raise kind(
        f"weights {spec!r} are of model {name}",
        hint="leave `model` and `num_classes` out, or choose other weights",
    )


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


def _seed(spec: str) -> int:
    _, _, number = spec.partition(":")
    if spec != "seeded" and not (number.isascii() and number.isdigit()):
        raise UsageError(
            f"weights {spec!r}: the seed after 'seeded:' must be a whole number of 0 or more"
        )
    return int(number or 0)
