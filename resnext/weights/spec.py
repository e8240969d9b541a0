"""Weights by name: a SPEC becomes weights that fit their configuration.

A weights SPEC is one of::

    seeded, seeded:7      conditioned random weights (see resnext.weights.conditioned);
                          the default for ImageNet-size models
    digits                trained on scikit-learn's digits, shipped; implies its model
    fashion-mnist         trained on Fashion-MNIST, shipped; implies its model
    PATH                  a checkpoint file, judged by its bytes: safetensors or torch.save, of
                          this toolkit, torchvision, timm or a trainer (see
                          resnext.weights.checkpoint); or the index of a sharded one
    torchvision:NAME, timm:NAME, hf:OWNER/REPO[@REVISION]
                          published weights, fetched once (see resnext.weights.hub.named)
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from resnext.errors import BadWeights, UsageError
from resnext.images.preprocessing import default_preprocessing
from resnext.images.requested import PreprocessingOptions
from resnext.network.config import ResNeXtConfig, variant
from resnext.readers.files import check_utf8, exists

from .checkpoint import Weights as Weights
from .checkpoint import read_weights
from .hub.load import load_named
from .hub.published import PUBLISHED
from .hub.spelling import is_named
from .shipped import SHIPPED

if TYPE_CHECKING:
    from resnext.network.model import ResNeXt

#: Start of a URL.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: Endings in messages, and of names that can only be a path.
_SUFFIXES = (".safetensors", ".pth", ".pt")


def load_weights(
    spec: str | None = None,
    model: str | ResNeXtConfig | None = None,
    *,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    key: str | None = None,
    preprocessing: PreprocessingOptions | None = None,
) -> Weights:
    """Find, read and check the weights that ``spec`` names.

    Args:
        spec: a weights SPEC as the module describes it; None means the shipped weights if the model
            has some, else ``seeded``.
        model: name of a variant, or a configuration; None means the model that the checkpoint
            declares or its tensors have; resnext50_32x4d for seeded weights.
        num_classes: number of logits, if it differs from the model's.
        input_size: (height, width) in pixels, if it differs from the model's.
        key: of the state dict in a file of several: ``state_dict_ema``.
        preprocessing: replaces what the weights declare, or what is assumed.

    Raises:
        UsageError: ``spec`` is malformed, has no such key, or names shipped or published weights
            of another model than ``model``; or ``preprocessing`` does not fit the network.
        UnknownName: torchvision or timm publish no weights of that name for this family.
        MissingRequirement: published weights cannot be fetched.
        BadWeights: the file is missing, unsafe, declares another model, or does not fit; names the
            first tensors that do not.
    """
    if spec is None:
        models = {known: name for name, row in SHIPPED.items() for known in (row.model, row.config)}
        spec = "seeded" if model is None else models.get(model, "seeded")
    if is_named(spec):
        weights = load_named(spec, model, num_classes=num_classes, input_size=input_size, key=key)
        return preprocessed(weights, preprocessing)
    origin = _origin(spec)
    if isinstance(origin, Path):
        if spec in SHIPPED:
            _refuse_other_model(spec, model)
        weights = read_weights(
            origin, model, num_classes=num_classes, input_size=input_size, key=key
        )
        weights = replace(weights, source=spec) if spec in SHIPPED else weights
        return preprocessed(weights, preprocessing)
    if key is not None:
        raise UsageError("`weights_key` chooses a state dict in a file; drop it")
    from .conditioned import seeded_state_dict

    config = variant(model or "resnext50_32x4d") if not isinstance(model, ResNeXtConfig) else model
    config = replace(
        config,
        num_classes=num_classes or config.num_classes,
        input_size=input_size or config.input_size,
    )
    weights = Weights(
        config, seeded_state_dict(config, origin), spec, default_preprocessing(config)
    )
    return preprocessed(weights, preprocessing)


def preprocessed(weights: Weights, requested: PreprocessingOptions | None) -> Weights:
    """``weights`` with the preprocessing that a user requests.

    Raises:
        UsageError: it does not fit the network.
    """
    if not requested:
        return weights
    preprocessing, notes = requested.applied(weights.preprocessing), weights.notes
    if weights.preprocessing_source == "assumed" and requested.open:
        left = ", ".join(f"`{name}`" for name in requested.open)
        notes += (
            f"{left} not requested: what the weights do not say of it is assumed, which gives"
            f" {preprocessing.summary()}",
        )
    return replace(
        weights, preprocessing=preprocessing, preprocessing_source="requested", notes=notes
    )


def _refuse_other_model(spec: str, model: str | ResNeXtConfig | None) -> None:
    """Shipped weights are of one model; a configuration may have another input size."""
    actual = SHIPPED[spec].config
    named = variant(model) if isinstance(model, str) else model
    if named is None:
        return
    if not isinstance(model, str):
        named = replace(named, input_size=actual.input_size)
    if named != actual:
        raise UsageError(
            f"weights {spec!r} are of model {SHIPPED[spec].model}",
            hint="leave `model` and `num_classes` out, or choose other weights",
        )


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
    if _URL.match(spec):
        raise UsageError(
            f"weights {spec!r} are a URL, and URLs are not fetched",
            hint="download the file, and name it in `weights`",
        )
    path = Path(spec)
    if spec and exists(path):  # whatever it is: what is no checkpoint is called what it is
        check_utf8(os.path.realpath(path), "the path of the weights")  # which manifests hold
        return path
    if path.suffix in _SUFFIXES or "/" in spec or os.sep in spec:
        where = "" if path.is_absolute() else f", which stands for {path.absolute()}"
        raise BadWeights(f"no weights file at {path}", hint=f"check the path{where}")
    known = ("seeded", *SHIPPED, *PUBLISHED)
    near = difflib.get_close_matches(spec, known, n=1, cutoff=0.51)
    raise UsageError(
        f"weights {spec!r} are not of a known form, and no file has that name; give seeded[:N],"
        f" {', '.join(SHIPPED)}, torchvision:NAME, timm:NAME, hf:OWNER/REPO, or the path of a"
        f" checkpoint ({', '.join(_SUFFIXES)} or any other ending)",
        hint=f"did you mean {near[0]!r}?" if near else "",
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
