"""Logits of eager PyTorch on the CPU, the reference of every comparison, and their cache on disk.

They are cached image by image: float64 takes seconds for each image of a large network, and eager
float16 half a minute on a processor without instructions for it. A cached file holds one image's
logits; a damaged or renamed file is computed again.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnext.network import model
from resnext.runtimes.buffers import full_float32_on_cpu
from resnext.runtimes.pt2.record import cpu_flags
from resnext.storage import cache_folder, read_cached, remove_left_behind, write_cached
from resnext.version import __version__
from resnext.weights.spec import Weights, load_model

FORMAT_VERSION = 1


def reference_logits(
    weights: Weights, images: NDArray[np.float32], dtype: torch.dtype = torch.float64
) -> NDArray[Any]:
    """Logits of eager PyTorch on the CPU, the reference that candidates are compared with.

    Args:
        weights: the network.
        images: N x C x H x W, preprocessed.
        dtype: element type of weights and arithmetic.

    Returns:
        N x classes, of ``dtype``, or float32 for bfloat16, which NumPy lacks.
    """
    network = load_model(weights).to(dtype)
    with torch.inference_mode(), full_float32_on_cpu():
        # Eight at a time: float64 activations of a large batch may not fit into memory.
        parts = [
            network(torch.from_numpy(images[start : start + 8]).to(dtype))
            for start in range(0, len(images), 8)
        ]
    joined = torch.cat(parts)
    logits: NDArray[Any] = (joined.float() if dtype == torch.bfloat16 else joined).numpy()
    return logits


def cached_reference_logits(
    weights: Weights, images: NDArray[np.float32], dtype: torch.dtype
) -> NDArray[Any]:
    """`reference_logits`, with a cache on disk.

    The key has weights, configuration, image, element type, the versions and threads of PyTorch and
    this toolkit, the model's source, and the processor's instructions; the last bits also depend on
    the other images of the batch. A cache folder that is missing or cannot be read or written is no
    error.

    Args:
        weights: the network.
        images: N x C x H x W, preprocessed.
        dtype: precision that weights and arithmetic are promoted to.

    Returns:
        N x classes, of ``dtype``; float32 for bfloat16.
    """
    try:
        folder = cache_folder() / "references" / _key(weights, dtype)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ):  # no platformdirs, no source of the model, or no home folder
        return reference_logits(weights, images, dtype)
    paths = [folder / f"{hashlib.sha256(image.tobytes()).hexdigest()[:32]}.npy" for image in images]
    remove_left_behind(folder, ".*.partial-*")
    rows = [_read(path, weights.config.num_classes) for path in paths]
    if missing := [index for index, logits in enumerate(rows) if logits is None]:
        for index, logits in zip(
            missing, reference_logits(weights, images[missing], dtype), strict=True
        ):
            rows[index] = logits
            _write(paths[index], logits)
    return np.stack([logits for logits in rows if logits is not None])


def _key(weights: Weights, dtype: torch.dtype) -> str:
    facts = {
        "format": FORMAT_VERSION,
        "weights": weights.sha256,
        "config": asdict(weights.config),
        "dtype": str(dtype),
        "toolkit": __version__,
        "model": inspect.getsource(
            model
        ),  # or a fixed model would be compared with logits of the broken one
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),  # sums are split among them, which the last bits show
        # PyTorch's levels do not distinguish AVX512-FP16, with which oneDNN computes differently.
        "processor": [torch.backends.cpu.get_cpu_capability(), *sorted(cpu_flags())],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _read(path: Path, classes: int) -> NDArray[Any] | None:
    if (data := read_cached(path)) is None:
        return None
    logits: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return logits if logits.shape == (classes,) else None


def _write(path: Path, logits: NDArray[Any]) -> None:
    stream = io.BytesIO()
    np.save(stream, logits, allow_pickle=False)
    with suppress(OSError):  # a read-only or full cache: it is computed again next time
        write_cached(path, stream.getvalue())
