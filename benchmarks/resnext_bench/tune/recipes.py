"""The commands that make the artifact of a point again and measure it, and the request that its
manifest stores.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from resnext.errors import UsageError
from resnext.network.config import VARIANTS, variant_name
from resnext.precision import PRECISIONS, QUANTIZED
from resnext.runtimes.registry import RUNTIMES
from resnext.weights.hub.spelling import pinned
from resnext.weights.spec import Weights
from resnext_export import ExportRequest, export_command

from .request import Request
from .space import Point


def folder_of(point: Point) -> str:
    """A folder for the artifact of ``point``: ``openvino-int8-merged-auto``."""
    settings = [f"batch-{point.batch}"] if _fixed_batch(point) else []
    return "-".join([point.backend, *point.variant.split(), *settings])


def export_fields(point: Point, request: Request, widths: str | None = None) -> dict[str, Any]:
    """The fields of the `resnext_export.ExportRequest` that makes the artifact of ``point`` from
    the weights.

    Args:
        point: of the search.
        request: of the search.
        widths: what ``auto`` chose for ``point``, if it is known (`recorded_widths`).
    """
    runtime, kind = RUNTIMES[point.backend], RUNTIMES[point.backend].formats[0]
    fields: dict[str, Any] = {"format": kind, **weights_fields(request.weights)}
    if point.precision != "fp32":
        fields["precision"] = point.precision
    if point.precision in QUANTIZED:
        fields["calibration"] = request.calibration
        fields["calibration_images"] = request.calibration_images
        fields["calibration_method"] = point.method
    timed = point.merge == "auto" and widths is None
    if kind == "onnx" and (point.precision in QUANTIZED or timed):
        fields["runtime"] = PRECISIONS[point.precision].only_for or runtime.scheme
    fields["merge_groups"] = point.merge if widths is None else widths
    if kind == "pt2":
        fields["batch"] = str(point.batch)
    elif kind != "onnx":
        fields["batch"] = ",".join(map(str, request.batches))
    elif timed:
        fields["batch"] = f"1:{point.batch}"
    return {name: value for name, value in fields.items() if value is not None}


def export_record(point: Point, request: Request, widths: str | None = None) -> dict[str, Any]:
    """What the manifest of the artifact stores, so that `rebuild` makes it again."""
    return ExportRequest(**export_fields(point, request, widths)).record()


def export_words(point: Point, request: Request, widths: str | None = None) -> tuple[str, ...]:
    """The command that makes the artifact; empty for the baseline."""
    if point.live:
        return ()
    made = ExportRequest(**export_fields(point, request, widths))
    return tuple(shlex.split(export_command(made, f"{folder_of(point)}/")))


def makes_choice(words: Sequence[str], point: Point, request: Request) -> bool:
    """Whether ``words`` make, by its widths, what was chosen for ``point`` by timing."""
    if point.merge == "auto" and "--merge-groups" in words[:-1]:
        widths = words[words.index("--merge-groups") + 1]
        with suppress(UsageError):  # no widths
            return tuple(words) == export_words(point, request, widths)
    return False


def bench_words(point: Point, request: Request) -> tuple[str, ...]:
    """The command that measures the artifact of `export_words`, or the baseline."""
    fields: dict[str, Any] = {"backend": point.backend}
    if point.live:
        fields |= weights_fields(request.weights) | {"memory_format": "channels-last"}
    else:
        fields["artifact"] = f"{folder_of(point)}/"
    fields["batch"] = point.batch
    fields["threads"] = point.threads
    fields["streams"] = point.streams if point.streams > 1 else None
    fields["device"] = None if request.device == "auto" else request.device
    if not point.live and request.accuracy is not None:
        fields["accuracy"] = request.accuracy
        fields["accuracy_images"] = request.accuracy_images
    return ("resnext-bench", *_words(fields))


def weights_fields(weights: Weights) -> dict[str, Any]:
    """How a request, and the command line, names ``weights``."""
    fields: dict[str, Any] = {"weights": pinned(weights.source, weights.revision)}
    fields["weights_key"] = weights.key
    if weights.source.partition(":")[0] == "seeded":
        fields |= _seeded_fields(weights)
    if weights.preprocessing_source == "requested":
        pixels = weights.preprocessing
        fields |= {"resize": pixels.resize, "interpolation": pixels.interpolation}
        fields |= {"mean": pixels.mean, "std": pixels.std}
    return {name: value for name, value in fields.items() if value is not None}


def _seeded_fields(weights: Weights) -> dict[str, Any]:
    """The variant of generated weights, and what differs from it."""
    config = weights.config
    if (name := variant_name(config)) is not None:
        return {"model": name}
    for name, known in VARIANTS.items():
        own = {"num_classes": config.num_classes, "input_size": config.input_size}
        if replace(known, num_classes=config.num_classes, input_size=config.input_size) == config:
            fields = {key: value for key, value in own.items() if getattr(known, key) != value}
            if "input_size" in fields:
                fields["input_size"] = "x".join(map(str, config.input_size))
            return {"model": name, **fields}
    return {}


def _fixed_batch(point: Point) -> bool:
    """Whether the artifact is made for the batch of ``point``."""
    return RUNTIMES[point.backend].formats[0] == "pt2" or point.merge == "auto"


def _words(fields: dict[str, Any]) -> list[str]:
    words = []
    for name, value in fields.items():
        if value is None:
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += ["--" + name.replace("_", "-"), text]
    return words
