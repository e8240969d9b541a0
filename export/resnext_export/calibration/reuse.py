"""Calibrate once: ranges from the cache if an earlier run left them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnxruntime

from resnext.errors import BadArtifact, BadInput
from resnext.images.preprocessing import PIXELS_VERSION
from resnext.storage import cache_folder, locked
from resnext_export.passes.graph import float_tensors

from .collect import BINS, PERCENTILE, calibrate, read_graph
from .images import BATCH_VALUES, Source
from .ranges import FORMAT_VERSION, Method, Ranges, read_ranges


def calibrate_or_reuse(
    model_path: Path, source: Source, method: Method, folder: Path | None = None
) -> Ranges:
    """The ranges of ``model_path`` over ``source``: cached, or calibrated now.

    Safe for several processes: the first calibrates, the others wait and reuse. A damaged entry is
    replaced.

    Args:
        model_path: the ONNX file.
        source: the images, opened only if needed.
        method: how to treat outliers.
        folder: cache folder; None means `cache_folder`.

    Raises:
        MissingRequirement: the cache folder is not writable.
        BadInput: as `calibrate`, or ``source`` yields another number of images than it declares.
    """
    data, proto = read_graph(model_path)
    key = {
        "format": FORMAT_VERSION,
        "onnx": hashlib.sha256(data).hexdigest(),
        "source": source.sha256,
        "images": source.images,
        "pixels": PIXELS_VERSION,
        "method": [method, PERCENTILE, BINS, BATCH_VALUES],
        "onnxruntime": str(onnxruntime.__version__),
    }
    folder = (folder or cache_folder()) / "calibration"
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    entry = folder / f"{digest[:24]}.json"
    with locked(entry.with_suffix(".lock")):
        try:
            cached = read_ranges(entry)
            if cached.ranges.keys() >= float_tensors(proto).keys():
                return cached
        except BadArtifact:  # missing or damaged
            pass
        ranges = calibrate(
            model_path, source.batches(), method, source=source.name, source_sha256=source.sha256
        )
        if ranges.images != source.images:
            raise BadInput(
                f"{source.name} yielded {ranges.images} images instead of {source.images}"
            )
        ranges.write(entry)
        return ranges
