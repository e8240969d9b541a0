"""Load published weights: fetch what a name stands for, and check it as any checkpoint."""

from __future__ import annotations

from dataclasses import replace

from resnext.errors import BadWeights, UsageError
from resnext.images.preprocessing import Preprocessing
from resnext.images.requested import PreprocessingOptions
from resnext.network.config import ResNeXtConfig, variant
from resnext.weights.checkpoint import Weights, read_weights
from resnext.weights.declared_model import architecture_note
from resnext.weights.header import fitted_preprocessing

from .named import Named, named_weights


def load_named(
    spec: str,
    model: str | ResNeXtConfig | None = None,
    *,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    key: str | None = None,
) -> Weights:
    """Fetch and read the weights that ``spec`` names; arguments and errors are those of
    `resnext.weights.spec.load_weights`.
    """
    named = named_weights(spec, model)
    if input_size is None:
        input_size = model.input_size if isinstance(model, ResNeXtConfig) else named.input_size
    if named.config is not None:
        _refuse_other_model(named, named.config, model, num_classes)
        model = named.config
    path, revision = named.fetch()
    weights = read_weights(path, model, num_classes=num_classes, input_size=input_size, key=key)
    names = weights.class_names or named.class_names
    if names and len(names) != weights.config.num_classes:
        raise BadWeights(
            f"{named.source} has {len(names)} class names for {weights.config.num_classes} logits"
        )
    if named.preprocessing and weights.preprocessing_source == "assumed":
        weights = replace(
            weights,
            preprocessing=_preprocessing(named.preprocessing, weights, named.source),
            preprocessing_source=named.preprocessing_source,
        )
    name = named.architecture
    note = architecture_note(name, weights.config) if name else ""
    return replace(
        weights,
        source=named.source,
        class_names=names,
        revision=revision,
        notes=(*weights.notes, *((note,) if note else ()), *named.notes),
    )


def _preprocessing(
    published: Preprocessing | PreprocessingOptions, weights: Weights, source: str
) -> Preprocessing:
    """What the publisher says, at the input size of ``weights``."""
    if isinstance(published, Preprocessing):
        return fitted_preprocessing(published, weights.config, source)
    try:
        return published.applied(weights.preprocessing)
    except UsageError as exc:
        raise BadWeights(f"config.json of {source}: {exc}") from exc


def _refuse_other_model(
    named: Named, config: ResNeXtConfig, model: str | ResNeXtConfig | None, num_classes: int | None
) -> None:
    """Refuse before anything is fetched: published weights are of one network."""
    requested = variant(model) if isinstance(model, str) else model or config
    requested = replace(
        requested,
        num_classes=num_classes or requested.num_classes,
        input_size=config.input_size,
    )
    if requested != config:
        raise UsageError(
            f"weights {named.source!r} are of another model",
            hint="leave `model` and `num_classes` out, or choose other weights",
        )
