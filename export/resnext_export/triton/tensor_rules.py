"""Rules about inputs and outputs: the configuration says what the model file says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resnext.artifact.specs import TensorSpec
from resnext.findings import Finding

from .backends import TYPES
from .served import Served, enum_name, model_dims


def tensors(model: Served) -> Iterator[Finding]:
    """Names, element types and dimensions are the model's."""
    for number, known in model.tensors.items():
        for field, specs in (("input", known.inputs), ("output", known.outputs)):
            entries = getattr(model.config, field)
            if not entries:
                model.unchecked.append(f"{model.name}: {field}s, which the server is to find out")
                continue
            names = {spec.name: spec for spec in specs}
            for index, entry in enumerate(entries):
                if entry.name in names:
                    ranked = entry.name not in known.unranked
                    yield from _compared(model, field, index, entry, names[entry.name], ranked)
                    continue
                yield Finding(
                    "tensor-name",
                    f"the model of version {number} has no {field} {entry.name!r}:"
                    f" {', '.join(names)}",
                    "use the model's name",
                    where=model.at(field, index, "name"),
                )
            missing = names.keys() - {entry.name for entry in entries} - model.unlisted[field]
            # A model may have inputs that nobody sends only if they have defaults.
            if field == "input" and missing and len(entries) < len(names):
                yield Finding(
                    "tensor-name",
                    f"the model of version {number} needs the input {min(missing)!r}, too",
                    "add it",
                    where=model.at(field),
                )


def _compared(
    model: Served, field: str, index: int, entry: Any, spec: TensorSpec, ranked: bool
) -> Iterator[Finding]:
    configured = enum_name(entry, "data_type")
    actual = TYPES.get(spec.dtype, "TYPE_STRING")
    if configured != actual:
        yield Finding(
            "tensor-dtype",
            f"{entry.name} is {configured}, and the model's is {actual}",
            f"use {actual}",
            where=model.at(field, index, "data_type"),
        )
    if not ranked:
        return
    dims = model_dims(entry)
    shape = spec.shape[1:] if model.config.max_batch_size else spec.shape
    if model.config.max_batch_size and len(dims) == len(spec.shape):
        return  # batch-in-dims says so
    fits = len(dims) == len(shape) and all(
        want is None or have == want for have, want in zip(dims, shape, strict=True)
    )
    if not fits:
        want = ", ".join("-1" if size is None else str(size) for size in shape)
        yield Finding(
            "tensor-dims",
            f"dims of {entry.name} are [ {', '.join(map(str, dims))} ], and the model's are"
            f" [ {want} ]"
            + (", without the batch" if model.config.max_batch_size else ", with the batch"),
            f"write [ {want} ]",
            where=model.at(field, index, "dims"),
        )


RULES = (tensors,)
