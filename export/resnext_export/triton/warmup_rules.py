"""Rules about warm-up samples, most of which the server takes without a word."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from resnext.findings import Finding
from resnext.readers.files import is_file

from .config import WARMUP_NAME
from .served import Served, enum_name

#: Bytes of one element, by Triton's name.
SIZES = {
    **dict.fromkeys(("TYPE_BOOL", "TYPE_UINT8", "TYPE_INT8"), 1),
    **dict.fromkeys(("TYPE_UINT16", "TYPE_INT16", "TYPE_FP16", "TYPE_BF16"), 2),
    **dict.fromkeys(("TYPE_UINT32", "TYPE_INT32", "TYPE_FP32"), 4),
    **dict.fromkeys(("TYPE_UINT64", "TYPE_INT64", "TYPE_FP64"), 8),
}


def samples(model: Served) -> Iterator[Finding]:
    """Each sample is a request that the model takes."""
    config = model.config
    if config.model_warmup and model.backend == "ensemble":
        yield Finding(
            "warmup-ensemble",
            "an ensemble has no warm-up, only its steps have",
            "drop model_warmup",
            where=model.at("model_warmup"),
        )
        return
    for index, sample in enumerate(config.model_warmup):
        where = model.at("model_warmup", index, "batch_size")
        most = max(config.max_batch_size, 1)
        if sample.batch_size > most:
            yield Finding(
                "warmup-batch",
                f"the sample has batch_size {sample.batch_size}, and the model takes {most}",
                f"use {most} at most",
                where=where,
            )
        if sample.batch_size == 0:
            yield Finding(
                "warmup-batch",
                "a sample of batch_size 0 is skipped in silence",
                "set batch_size",
                where=where,
            )
        yield from _inputs(model, index, sample)


def _inputs(model: Served, index: int, sample: Any) -> Iterator[Finding]:
    entries = {entry.name: entry for entry in model.config.input}
    where = model.at("model_warmup", index)
    for name in sorted(entries.keys() - sample.inputs.keys()):
        if not entries[name].optional:
            yield Finding(
                "warmup-input", f"the sample has no input {name!r}", "add it", where=where
            )
    # A map keeps no order, so a line is that of the sample, unless it has one input.
    inside: tuple[str | int, ...] = ("inputs", 0, "value", 0) if len(sample.inputs) == 1 else ()
    for name, source in sorted(sample.inputs.items()):
        entry = entries.get(name)
        if entry is None:
            if entries and name not in model.unlisted["input"]:
                yield Finding(
                    "warmup-input",
                    f"the sample has an input {name!r}, and the model has none of that name",
                    f"use {', '.join(sorted(entries))}",
                    where=where,
                )
            continue
        at = [model.at("model_warmup", index, *inside, field) for field in ("data_type", "dims")]
        kind, wanted = enum_name(source, "data_type"), enum_name(entry, "data_type")
        if source.data_type != entry.data_type:
            yield Finding(
                "warmup-dtype",
                f"{name} is {kind} in the sample, and {wanted} in the model",
                f"use {wanted}",
                where=at[0],
            )
            continue
        want = tuple(entry.dims)
        if len(source.dims) != len(want) or any(
            have < 1 or (size != -1 and have != size)
            for have, size in zip(source.dims, want, strict=True)
        ):
            yield Finding(
                "warmup-dims",
                f"{name} has dims {list(source.dims)} in the sample, and {list(want)} in the model",
                "write those of one request, all of them known",
                where=at[1],
            )
            continue
        if source.HasField("input_data_file"):
            yield from _file(model, name, source, kind, index, inside)


def _file(
    model: Served,
    name: str,
    source: Any,
    kind: str,
    index: int,
    inside: tuple[str | int, ...],
) -> Iterator[Finding]:
    where = model.at("model_warmup", index, *inside, "input_data_file")
    path = model.folder / WARMUP_NAME / source.input_data_file
    if not is_file(path):
        yield Finding(
            "warmup-file-missing",
            f"there is no {source.input_data_file} in {model.name}/{WARMUP_NAME}",
            "write it there",
            where=where,
        )
    elif kind in SIZES and path.stat().st_size != (want := prod(source.dims) * SIZES[kind]):
        yield Finding(
            "warmup-size",
            f"{source.input_data_file} has {path.stat().st_size} bytes, and {name} has {want}: the"
            " server repeats one request's, and takes no notice of what is behind it",
            "write the bytes of one request",
            where=where,
        )


RULES = (samples,)
