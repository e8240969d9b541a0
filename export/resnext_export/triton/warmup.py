"""Warm-up samples: real pixels, what the server must answer, and their entries in the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import Manifest
from resnext.errors import MissingRequirement
from resnext.images.odd_pictures import odd_pictures
from resnext.images.preprocessing import Preprocessing
from resnext.runtimes.front import open_session
from resnext.storage import scratch_folder
from resnext.verify.inputs import seeded_inputs
from resnext.weights.shipped import SHIPPED

from .config import WARMUP_NAME


def write_warmup(
    artifact: Artifact, config: dict[str, Any], folder: Path
) -> tuple[list[dict[str, Any]], str]:
    """Write samples into the model's folder.

    The server repeats one image to fill a batch, so each file holds one; of a model that is not
    batched, a whole request. Beside ``batch-8.bin`` lies ``batch-8.logits.npy``: float32, N x
    classes, what the artifact computes for it here.

    Args:
        artifact: what is served.
        config: its configuration.
        folder: of the model.

    Returns:
        The entries of ``model_warmup``, and why there are no logits, or "".
    """
    manifest, spec = artifact.manifest, config["input"][0]
    batched = bool(config["max_batch_size"])
    sizes = warm_sizes(manifest, config["max_batch_size"])
    samples = folder / WARMUP_NAME
    samples.mkdir()
    requests = {}
    entries = []
    for size, image in zip(sizes, images_for(manifest, len(sizes)), strict=True):
        name = f"batch-{size}"
        request = requests[name] = np.repeat(image[np.newaxis], 1 if batched else size, axis=0)
        (samples / f"{name}.bin").write_bytes(request.tobytes())
        source = {
            "data_type": spec["data_type"],
            "dims": list(request.shape[1:] if batched else request.shape),
            "input_data_file": f"{name}.bin",
        }
        inputs = [{"key": spec["name"], "value": source}]
        entries.append({"name": name, "batch_size": size if batched else 1, "inputs": inputs})
    return entries, _write_logits(artifact, requests, samples)


def warm_sizes(manifest: Manifest, largest: int) -> tuple[int, ...]:
    """Batch sizes to warm up: what each profile is tuned for, or the smallest and the largest."""
    ranges = manifest.batch_ranges
    if not largest:
        return (ranges[0].min,)
    if len(ranges) > 1:
        return tuple(sorted({min(each.opt, largest) for each in ranges}))
    return tuple(sorted({1, largest}))


def images_for(manifest: Manifest, count: int) -> NDArray[Any]:
    """Different images, as the artifact takes them: the pictures that come with shipped weights,
    drawn ones for another network, noise if nobody said how a picture becomes the input.
    """
    pixels = manifest.preprocessing
    spec = manifest.inputs[0]
    if pixels is None:
        return spec.cast(seeded_inputs(manifest, count))
    images = np.concatenate(_pictures(manifest, pixels, count))
    return spec.cast(images if manifest.preprocessing_baked else pixels.normalize(images))


def _pictures(manifest: Manifest, pixels: Preprocessing, count: int) -> list[NDArray[np.uint8]]:
    shipped = SHIPPED.get(manifest.weights.source)
    if shipped is not None:
        paths = sorted(shipped.images.glob("*.png"))
        return [pixels.load(paths[index % len(paths)]) for index in range(count)]
    drawn = odd_pictures(pixels)
    with scratch_folder() as folder:
        paths = [folder / picture.name for picture in drawn]
        for path, picture in zip(paths, drawn, strict=True):
            path.write_bytes(picture.data)
        return [pixels.load(paths[index % len(paths)]) for index in range(count)]


def _write_logits(artifact: Artifact, requests: dict[str, NDArray[Any]], folder: Path) -> str:
    """Run the artifact, which was proven, on each request; what it lacks here, or ""."""
    try:
        with open_session(artifact) as session:
            least = artifact.manifest.batch_ranges[0].min
            for name, request in requests.items():
                logits = session(np.resize(request, (max(least, len(request)), *request.shape[1:])))
                np.save(folder / f"{name}.logits.npy", logits[: len(request)].astype(np.float32))
    except MissingRequirement as exc:
        return f"no expected logits beside the warm-up samples: {exc}"
    return ""
