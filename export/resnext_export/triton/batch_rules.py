"""Rules about batches: what the server may form, and what the model takes."""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .config import covered_from_one
from .served import Served, Tensors, model_dims


def largest(model: Served) -> Iterator[Finding]:
    """The model takes every batch up to ``max_batch_size``."""
    most, where = model.config.max_batch_size, model.at("max_batch_size")
    for number, tensors in model.tensors.items():
        limit = covered_from_one(tensors.ranges)
        taken = ", ".join(map(str, tensors.ranges))
        if most and _fixed(tensors):
            yield Finding(
                "fixed-batch",
                f"version {number} takes batch {taken} only, and the server would form batches of"
                f" up to {most}",
                "set max_batch_size to 0, and write the batch into dims",
                where=where,
            )
        elif most and limit is not None and most > limit:
            yield Finding(
                "max-batch",
                f"max_batch_size is {most}, and version {number} takes batches {taken}: up to"
                f" {limit} without a gap",
                f"use {limit}, or export with a larger range" if limit else "export from 1 on",
                where=where,
            )


def _fixed(tensors: Tensors) -> bool:
    return len(tensors.ranges) == 1 and tensors.ranges[0].static


def in_dims(model: Served) -> Iterator[Finding]:
    """No batch dimension in ``dims``, where the server adds one."""
    if not model.config.max_batch_size:
        return
    shapes = {
        spec.name: spec.shape
        for tensors in model.tensors.values()
        for spec in (*tensors.inputs, *tensors.outputs)
        if spec.name not in tensors.unranked
    }
    for field in ("input", "output"):
        for index, tensor in enumerate(getattr(model.config, field)):
            dims, shape = model_dims(tensor), shapes.get(tensor.name)
            # Without a model file that says it: images have three dimensions, not four.
            suspected = shape is None and len(dims) == 4 and dims[0] == -1
            if suspected or (shape is not None and len(dims) == len(shape)):
                yield Finding(
                    "batch-in-dims",
                    f"dims of {tensor.name} are {_text(dims)}, and max_batch_size adds the batch in"
                    f" front of them: {len(dims) + 1} dimensions",
                    f"write {_text(dims[1:])}",
                    "warning" if suspected else "refused",
                    model.at(field, index, "dims"),
                )


def _text(dims: tuple[int, ...]) -> str:
    return f"[ {', '.join(map(str, dims))} ]"


def dynamic(model: Served) -> Iterator[Finding]:
    """Dynamic batching has something to batch."""
    config = model.config
    if not config.HasField("dynamic_batching"):
        return
    if not config.max_batch_size:
        yield Finding(
            "batching-off",
            "dynamic_batching has no effect with max_batch_size 0: the server batches nothing",
            "set max_batch_size, and take the batch out of dims; or drop dynamic_batching",
            where=model.at("dynamic_batching"),
        )
        return
    profiles = [tensors.ranges for tensors in model.tensors.values() if len(tensors.ranges) > 1]
    sizes = config.dynamic_batching.preferred_batch_size
    for index, size in enumerate(sizes):
        where = model.at("dynamic_batching", 0, "preferred_batch_size", index)
        if not 1 <= size <= config.max_batch_size:
            yield Finding(
                "preferred-batch",
                f"preferred batch size {size} is not from 1 to max_batch_size,"
                f" {config.max_batch_size}",
                "drop it",
                where=where,
            )
    if sizes and model.tensors and not profiles:
        yield Finding(
            "preferred-batch",
            "preferred batch sizes make requests wait, and the model has no profiles that would"
            " make any size better than another",
            "drop preferred_batch_size, and measure max_queue_delay_microseconds",
            "warning",
            model.at("dynamic_batching", 0, "preferred_batch_size"),
        )


def profiles(model: Served) -> Iterator[Finding]:
    """Instances may use every optimization profile of an engine, and none that it lacks."""
    engines = {
        number: len(tensors.ranges)
        for number, tensors in model.tensors.items()
        if tensors.artifact is not None and tensors.artifact.manifest.engine is not None
    }
    for index, group in enumerate(model.config.instance_group):
        where = model.at("instance_group", index, "profile")
        chosen = set(group.profile)
        if chosen and model.known_backend is not None and model.backend != "tensorrt":
            yield Finding(
                "profile",
                f"{model.backend} has no optimization profiles",
                "drop profile",
                where=where,
            )
        for number, count in engines.items():
            known = {str(each) for each in range(count)}
            if unknown := sorted(chosen - known):
                yield Finding(
                    "profile",
                    f"the engine of version {number} has {count} profiles, numbered from 0, and no"
                    f" {unknown[0]}",
                    f"name {', '.join(sorted(known))}",
                    where=where,
                )
            if unused := sorted(known - (chosen or {"0"})):
                yield Finding(
                    "profile",
                    f"the engine of version {number} has {count} profiles, and instances use"
                    f" {', '.join(sorted(chosen)) or 'the first'} alone",
                    f"add {', '.join(unused)} to profile",
                    "warning",
                    where,
                )


def full_batches(model: Served) -> Iterator[Finding]:
    """OpenVINO's backend fixes the batch to ``max_batch_size``."""
    padded = model.parameter("ENABLE_BATCH_PADDING").lower() == "yes"
    if model.backend == "openvino" and model.config.max_batch_size > 1 and not padded:
        yield Finding(
            "full-batches",
            f"OpenVINO's backend refuses every batch but that of {model.config.max_batch_size}",
            "set max_batch_size to 0 and begin dims with -1, or let it fill batches up:"
            " ENABLE_BATCH_PADDING",
            where=model.at("max_batch_size"),
        )


RULES = (largest, in_dims, dynamic, profiles, full_batches)
