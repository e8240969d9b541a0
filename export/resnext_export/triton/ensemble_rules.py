"""Rules about ensembles: every step is a model of the repository, and its tensors are those."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resnext.findings import Finding

from .served import Served


@dataclass(frozen=True)
class _Tensor:
    """What a step gives or takes: dimensions without and with the batch that the server adds."""

    data_type: int
    dims: tuple[int, ...]
    all_dims: tuple[int, ...]


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
    tensors: dict[str, _Tensor | None] = {
        each.name: _tensor(ensemble, each) for each in config.input
    }
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
        outputs = {each.name: each for each in model.config.output}
        # What a configuration leaves out, the server finds out.
        if outputs and config.max_batch_size > model.config.max_batch_size:
            yield Finding(
                "ensemble-batch",
                f"max_batch_size is {config.max_batch_size}, and that of {model.name} is"
                f" {model.config.max_batch_size}",
                "use the smallest of the steps'",
                where=ensemble.at("max_batch_size"),
            )
        for key, value in step.output_map.items():
            if key in outputs or not outputs:
                tensors[value] = _tensor(model, outputs[key]) if outputs else None
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
        elif not _alike(_tensor(ensemble, output), tensors[output.name]):
            yield _differs(ensemble.at("output", index), output.name)


def _inputs(
    ensemble: Served,
    at: tuple[str | int, ...],
    step: Any,
    model: Served,
    tensors: Mapping[str, _Tensor | None],
    complete: bool,
) -> Iterator[Finding]:
    inputs = {each.name: each for each in model.config.input}
    for key, value in sorted(step.input_map.items()):
        where = ensemble.at(*at, "input_map")
        if key not in inputs and inputs:
            yield _unknown(ensemble, at, "input_map", model, key, inputs)
        elif value not in tensors:
            if complete:
                yield Finding(
                    "ensemble-tensor",
                    f"{model.name} reads {value!r}, which is no input and no step gives",
                    f"use {', '.join(sorted(tensors))}",
                    where=where,
                )
        elif inputs and not _alike(_tensor(model, inputs[key]), tensors[value]):
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


def _tensor(model: Served, entry: Any) -> _Tensor:
    dims = tuple(entry.dims)
    return _Tensor(entry.data_type, dims, (-1, *dims) if model.config.max_batch_size else dims)


def _alike(one: _Tensor, other: _Tensor | None) -> bool:
    """Whether what is made can be what is read; a model that the server does not batch may have the
    batch in its dims.
    """
    if other is None:
        return True
    return one.data_type == other.data_type and any(
        len(mine) == len(theirs)
        and all(a == b or -1 in (a, b) for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in ((one.dims, other.dims), (one.all_dims, other.all_dims))
    )
