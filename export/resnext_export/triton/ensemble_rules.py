"""Rules about ensembles: every step is a model of the repository, and its tensors are those."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from resnext.findings import Finding

from .served import Served


def check_ensemble(
    ensemble: Served, models: Mapping[str, Served], unread: Collection[str]
) -> Iterator[Finding]:
    """Check the steps of an ensemble.

    Args:
        ensemble: any model; others than ensembles have no steps.
        models: all models by name.
        unread: models that are there, but whose configuration could not be read.
    """
    config = ensemble.config
    steps = config.ensemble_scheduling.step
    tensors = {each.name: each for each in config.input}
    known: dict[int, Served] = {}
    for index, step in enumerate(steps):
        at = ("ensemble_scheduling", 0, "step", index)
        model = models.get(step.model_name)
        if model is None:
            if step.model_name in unread:
                ensemble.unchecked.append(f"{ensemble.name}: its step {step.model_name}")
            else:
                yield Finding(
                    "ensemble-model",
                    f"step {index} is {step.model_name!r}, and there is no such model:"
                    f" {', '.join(models)}",
                    "name a model of this repository",
                    where=ensemble.at(*at, "model_name"),
                )
            continue
        known[index] = model
        if step.model_version > 0 and step.model_version not in model.loaded:
            yield Finding(
                "ensemble-model",
                f"step {index} is version {step.model_version} of {model.name}, which is not"
                " served",
                "use -1, the latest",
                where=ensemble.at(*at, "model_version"),
            )
        if config.max_batch_size > model.config.max_batch_size:
            yield Finding(
                "ensemble-batch",
                f"max_batch_size is {config.max_batch_size}, and that of {model.name} is"
                f" {model.config.max_batch_size}",
                "use the smallest of the steps'",
                where=ensemble.at("max_batch_size"),
            )
        outputs = {each.name: each for each in model.config.output}
        for key, value in step.output_map.items():
            if key in outputs:
                tensors[value] = outputs[key]
            else:
                yield _unknown(ensemble, at, "output_map", model, key, outputs)
    for index, model in known.items():
        at = ("ensemble_scheduling", 0, "step", index)
        yield from _inputs(ensemble, at, steps[index], model, tensors, len(known) == len(steps))
    for index, output in enumerate(config.output):
        if len(known) < len(steps) or not steps:
            break
        if output.name not in tensors:
            yield Finding(
                "ensemble-tensor",
                f"no step gives the output {output.name!r}",
                f"use {', '.join(sorted(tensors))}",
                where=ensemble.at("output", index, "name"),
            )
        elif not _alike(output, tensors[output.name]):
            yield _differs(ensemble.at("output", index), output.name)


def _inputs(
    ensemble: Served,
    at: tuple[str | int, ...],
    step: Any,
    model: Served,
    tensors: Mapping[str, Any],
    complete: bool,
) -> Iterator[Finding]:
    inputs = {each.name: each for each in model.config.input}
    for key, value in sorted(step.input_map.items()):
        where = ensemble.at(*at, "input_map")
        if key not in inputs:
            yield _unknown(ensemble, at, "input_map", model, key, inputs)
        elif value not in tensors:
            if complete:
                yield Finding(
                    "ensemble-tensor",
                    f"{model.name} reads {value!r}, which is no input and no step gives",
                    f"use {', '.join(sorted(tensors))}",
                    where=where,
                )
        elif not _alike(inputs[key], tensors[value]):
            yield _differs(where, value)
    for name in sorted(inputs.keys() - step.input_map.keys()):
        if not inputs[name].optional:
            yield Finding(
                "ensemble-tensor",
                f"nothing is mapped to the input {name!r} of {model.name}",
                "add it to input_map",
                where=ensemble.at(*at),
            )


def _unknown(
    ensemble: Served,
    at: tuple[str | int, ...],
    field: str,
    model: Served,
    key: str,
    names: Mapping[str, Any],
) -> Finding:
    return Finding(
        "ensemble-tensor",
        f"{model.name} has no {field.partition('_')[0]} {key!r}: {', '.join(names) or 'none'}",
        "use the model's name as key",
        where=ensemble.at(*at, field),
    )


def _differs(where: str, name: str) -> Finding:
    return Finding(
        "ensemble-tensor",
        f"{name} has another element type, or other dims, where it is made than where it is read",
        "make them the same",
        where=where,
    )


def _alike(one: Any, other: Any) -> bool:
    dims = list(zip(one.dims, other.dims, strict=False))
    return (
        one.data_type == other.data_type
        and len(one.dims) == len(other.dims)
        and all(a == b or -1 in (a, b) for a, b in dims)
    )
